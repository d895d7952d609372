/* profiler/report/assets.S: the look of the HTML report and its behaviour, as text inside the program. */
	.section .rodata
	.macro asset name, file
	.global prof_page_\name
prof_page_\name:
	.incbin "\file" /* the macro took the quotes off */
	.byte 0
	.endm

	asset css, "profiler/report/page.css"
	asset js, "profiler/report/page.js"
	.section .note.GNU-stack, "", @progbits
