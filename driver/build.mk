DRIVER_OBJS = $(patsubst %,$(BUILD)/%.o,$(basename $(wildcard driver/*.c driver/*.cpp)))

# Whoever links libkvshare.so or these objects with a C compiler needs no libstdc++.
$(BUILD)/driver/observe.o: CXXFLAGS_ALL += -fno-exceptions -fno-rtti -fno-threadsafe-statics
