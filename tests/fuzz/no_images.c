/* tests/fuzz/no_images.c: an empty set of kernels: the engine needs one to link, but no fuzzer launches any. */
const unsigned char attn_image_host[1], attn_image_host_end[1], attn_image_gpu[1], attn_image_gpu_end[1];
const char attn_gpu_archs[1];
