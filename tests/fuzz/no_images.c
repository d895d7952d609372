/* tests/fuzz/no_images.c: what links the engine wants kernels, which nothing here launches. */
const unsigned char attn_image_host[1], attn_image_host_end[1], attn_image_gpu[1], attn_image_gpu_end[1];
