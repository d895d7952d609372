DRIVER_OBJS = $(patsubst %,$(BUILD)/%.o,$(basename $(wildcard driver/*.c driver/*.cpp)))

# Programs that link libkvshare.so, or these objects, with a C compiler need no libstdc++.
$(BUILD)/driver/observe.o: CXXFLAGS_ALL += -fno-exceptions -fno-rtti -fno-threadsafe-statics
