/* tests/fuzz/no_images.c: what links the engine wants kernels, which nothing here launches. */
const unsigned char kvs_image_host[1], kvs_image_host_end[1], kvs_image_gpu[1], kvs_image_gpu_end[1];
