/* tools/run/plan/exports.S: the Python that `plan convert` fills a plan into, as text inside the program. */
	.section .rodata
	.macro export name, file
	.global plan_export_\name
plan_export_\name:
	.incbin "\file" /* the macro took the quotes off */
	.byte 0
	.endm

	export transformers, "tools/run/plan/exports/plan_transformers.py"
	export vllm, "tools/run/plan/exports/plan_vllm.py"
	.section .note.GNU-stack, "", @progbits
