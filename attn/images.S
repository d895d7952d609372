/* attn/images.S: the kernels inside the program: one for softcuda, one for GPUs (empty in a build without nvcc), and which. */
	.section .rodata
	.macro image name, file
	.global attn_image_\name
	.global attn_image_\name\()_end
	.type attn_image_\name, @object
	.type attn_image_\name\()_end, @object
	.balign 64
attn_image_\name:
	.incbin "\file" /* the macro removed the quotes */
attn_image_\name\()_end:
	.byte 0
	.size attn_image_\name, . - attn_image_\name
	.size attn_image_\name\()_end, 1
	.endm

	image host, KVS_HOST_IMAGE
	image gpu, KVS_GPU_IMAGE

	.global attn_gpu_archs
	.type attn_gpu_archs, @object
attn_gpu_archs:
	.asciz KVS_GPU_ARCHS
	.size attn_gpu_archs, . - attn_gpu_archs
	.section .note.GNU-stack, "", @progbits
