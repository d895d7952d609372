/* tools/run/plan/exports.S: the Python into which `plan convert` puts a plan, as text inside the program. */
	.section .rodata
	.macro export name, file
	.global plan_export_\name
plan_export_\name:
	.incbin "\file" /* the macro has removed the quotes */
	.byte 0
	.endm

	export transformers, "tools/run/plan/exports/plan_transformers.py"
	export vllm, "tools/run/plan/exports/plan_vllm.py"
	.section .note.GNU-stack, "", @progbits
