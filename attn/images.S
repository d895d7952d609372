/* attn/images.S: the kernels inside the program: for softcuda and for GPUs (empty where it was built without nvcc). */
	.section .rodata
	.macro image name, file
	.global kvs_image_\name
	.global kvs_image_\name\()_end
	.type kvs_image_\name, @object
	.type kvs_image_\name\()_end, @object
	.balign 64
kvs_image_\name:
	.incbin "\file" /* the macro took the quotes off */
kvs_image_\name\()_end:
	.byte 0
	.size kvs_image_\name, . - kvs_image_\name
	.size kvs_image_\name\()_end, 1
	.endm

	image host, KVS_HOST_IMAGE
	image gpu, KVS_GPU_IMAGE
	.section .note.GNU-stack, "", @progbits
