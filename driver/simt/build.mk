# The fiber scheduler, linked into every module of kernels that is built for the CPU.
SIMT_OBJS = $(patsubst %.cpp,$(BUILD)/%.o,$(wildcard driver/simt/*.cpp))
# Static, as a module must load wherever it is carried; but sanitizers want one C++ library in the process.
SIMT_LIBS = -l:libboost_context.a $(if $(strip $(SANITIZE)),,-static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL)

# A module of CUDA kernels for softcuda: $(call simt-module,OUT.so,SOURCES.cu)
$(BUILD)/%.simt.o: %.cu $(BUILD)/cxx.flags
	@mkdir -p $(@D)
	$(call say,SIMT,$@)
	$(Q)$(CXX) $(CXXFLAGS_ALL) -Wno-unknown-pragmas $(if $(findstring clang,$(CXX)),-Wno-pass-failed) -x c++ -include driver/simt/simt.h -c $< -o $@
