# The HTML report, and the exports. The look of the page and its script travel inside the program.
PAGE_SRCS = $(wildcard profiler/report/*.c profiler/report/*.S profiler/export/*.c)
PAGE_OBJS = $(addprefix $(BUILD)/,$(addsuffix .o,$(basename $(PAGE_SRCS))))
$(BUILD)/profiler/report/assets.o $(BUILD)/fuzz/profiler/report/assets.o: profiler/report/page.css profiler/report/page.js
