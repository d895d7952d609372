/*
 * The kernels that are known to write a cache, by their names as the driver has them (mangled), and as tools print them: those that
 * engines really launch (names from profiles and sources that are public), and neighbours of theirs that read.
 */
#include "../../tools/preload/preload.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct shim_settings settings;
_Atomic(const struct shim_settings *) shim_settings_known = &settings;

const struct shim_settings *shim_settings_read(void)
{
	return &settings;
}

#define P(n) (UINT64_C(1) << (n))
#define CLOSURE "ERNS_18TensorIteratorBaseEENKUlvE1_clEvENKUlvE8_clEvEUlN3c104HalfEE_"

static const struct {
	const char *name;
	uint64_t params;
	enum shim_role role;
	bool first_word;
} kernels[] = {
	/* torch.zeros, zero_() and fill_() */
	{"_ZN2at6native29vectorized_elementwise_kernelILi8ENS0_11FillFunctorIN3c104HalfEEESt5arrayIPcLm1EEEEviT0_T1_",
		SHIM_ANY_PARAM, SHIM_WRITES, false},
	{"void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<int>, std::array<char*, 1ul> "
	 ">(int, "
	 "at::native::FillFunctor<int>, std::array<char*, 1ul>)",
		SHIM_ANY_PARAM, SHIM_WRITES, false},
	/* copy_: only its destination; with strides it may be anywhere in the closure, so it is none of these */
	{"_ZN2at6native29vectorized_elementwise_kernelILi4EZZZNS0_23direct_copy_kernel_cuda" CLOSURE
	 "St5arrayIPcLm2EEEEviT0_T1_",
		P(2), SHIM_WRITES, true},
	{"_ZN2at6native27unrolled_elementwise_kernelIZZZNS0_23direct_copy_kernel_cuda" CLOSURE
	 "NS_6detail5ArrayIPcLi2EEE23TrivialOffsetCalculatorILi1EjESC_NS0_6memory12LoadWithCastILi1EEENSD_"
	 "13StoreWithCastILi1EEEEEviT_T0_T1_T2_T3_T4_",
		P(2), SHIM_WRITES, true},
	{"_ZN2at6native18elementwise_kernelILi128ELi4EZNS0_22gpu_kernel_impl_nocastIZZZNS0_23direct_copy_kernel_"
	 "cuda" CLOSURE "EEvS4_RKT_EUliE_EEviT1_",
		0, SHIM_READS, false},
	{"_ZN2at6native29vectorized_elementwise_kernelILi4ENS0_15CUDAFunctor_addIfEESt5arrayIPcLm3EEEEviT0_T1_", 0,
		SHIM_READS, false},
	/* index_copy_, index_put_, and the gather that has the same kernel */
	{"void at::native::index_elementwise_kernel<128, 4, "
	 "at::native::index_copy_kernel_impl<at::native::OpaqueType<2> "
	 ">(at::TensorIterator&, long, long, long)::{lambda(int)#1}>(long, ...)",
		SHIM_ANY_PARAM, SHIM_WRITES, false},
	{"_ZN2at6native24index_elementwise_kernelILi128ELi4EZNS0_16gpu_index_kernelIZNS0_21index_put_kernel_implINS0_"
	 "10OpaqueTypeILi2EEEEEvRNS_14TensorIteratorEN3c108ArrayRefIlEES8_EUlPcPKclE_EEvRNS_18TensorIteratorBaseES8_S8_"
	 "RKT_bEUliE_EEvlT1_",
		SHIM_ANY_PARAM, SHIM_WRITES, false},
	{"_ZN2at6native24index_elementwise_kernelILi128ELi4EZNS0_16gpu_index_kernelIZNS0_17index_kernel_implINS0_"
	 "10OpaqueTypeILi2EEEEEvRNS_18TensorIteratorBaseEN3c108ArrayRefIlEES8_EUlPcPKclE_EEvS5_S8_S8_RKT_bEUliE_"
	 "EEvlT1_",
		0, SHIM_READS, false},
	/* torch.compile: what is fused with the store may read the cache */
	{"triton_poi_fused_index_copy_3", 0, SHIM_READS, false},
	{"triton_red_fused_clone_index_put_7", 0, SHIM_READS, false},
	/* vLLM */
	{"_ZN4vllm30reshape_and_cache_flash_kernelI13__nv_bfloat16S1_LNS_18Fp8KVCacheDataTypeE0EEEvPKT_S5_PT0_S7_"
	 "PKlllllliiiPKfS9_i",
		P(2) | P(3), SHIM_WRITES, false},
	{"void vllm::reshape_and_cache_kernel<unsigned short, unsigned char, (vllm::Fp8KVCacheDataType)1>(...)",
		P(2) | P(3), SHIM_WRITES, false},
	{"reshape_and_cache_kernel_flash", P(2) | P(3), SHIM_WRITES, false},
	{"void vllm::concat_and_cache_mla_kernel<__nv_bfloat16, __nv_bfloat16, (vllm::Fp8KVCacheDataType)0>(...)", P(2),
		SHIM_WRITES, false},
	{"void vllm::concat_and_cache_ds_mla_kernel<__nv_bfloat16, unsigned char, (vllm::Fp8KVCacheDataType)1>(...)",
		P(2), SHIM_WRITES, false},
	{"concat_and_cache_mla_rope_fused_kernel", SHIM_ANY_PARAM, SHIM_WRITES, false},
	{"void vllm::cp_gather_cache<unsigned short>(...)", 0, SHIM_READS, false},
	{"void vllm::paged_attention_v1_kernel<unsigned short, unsigned short, 128, 16, 128>(...)", 0, SHIM_READS,
		false},
	/* SGLang, FlashInfer, nano-vLLM */
	{"_ZN58_GLOBAL__N__0_store_cu20store_kv_cache_256x1IlEEvPmS1_PKT_mPKmS6_mmm", SHIM_ANY_PARAM, SHIM_WRITES,
		false},
	{"_Z13store_kvcacheILl1024ELi1ELb1ElEv18StoreKVCacheParams", SHIM_ANY_PARAM, SHIM_WRITES, false},
	{"store_kvcache_kernel", SHIM_ANY_PARAM, SHIM_WRITES, false},
	{"set_mla_kv_buffer_kernel", SHIM_ANY_PARAM, SHIM_WRITES, false},
	{"void flashinfer::BatchQKApplyRotaryPosIdsCosSinCacheEnhancedHeadParallelismKernel<true, false, 128u, 8u, "
	 "16u, "
	 "__nv_bfloat16, long>(...)",
		P(5) | P(6), SHIM_WRITES, false},
	{"_ZN10flashinfer24AppendPagedKVCacheKernelILj128ELj8E13__nv_bfloat16iEEvNS_10paged_kv_tIT1_T2_EEPS3_S6_PS4_S7_"
	 "jmmmm",
		SHIM_ANY_PARAM, SHIM_WRITES, false},
	{"void flashinfer::AppendPagedKVMlaCacheKernel<512u, 64u, 2u, __nv_bfloat16, int>(...)", SHIM_ANY_PARAM,
		SHIM_WRITES, false},
	{"void flashinfer::BatchPrefillWithPagedKVCacheKernel<...>(...)", 0, SHIM_READS, false},
	{"void flashinfer::BatchDecodeWithPagedKVCacheKernel<...>(...)", 0, SHIM_READS, false},
	/* llama.cpp, whose kernels are static: only the destination, as the source may be the cache too */
	{"_ZL10k_set_rowsIfl6__halfEvPKT_PKT0_PT1_lllllllllllllll5uint3S8_S8_S8_S8_", P(2), SHIM_WRITES, false},
	{"_ZL16k_set_rows_quantIl10block_q8_0Li32EXadL_ZL19quantize_f32_q8_0_blockPKfPS0_EEEvS2_PKT_PT0_"
	 "lllllllllllllll",
		P(2), SHIM_WRITES, false},
	{"_ZL9rope_neoxILb1ELb0Ef6__halfEvPKT1_PT2_iiiiiiiiiPKifff14rope_corr_dimsfPKfPKli", P(1), SHIM_WRITES, false},
	{"_ZL9rope_normILb1ELb0EffEvPKT1_PT2_iiiiiiiiiPKifff14rope_corr_dimsfPKfPKli", P(1), SHIM_WRITES, false},
	{"_ZL10cpy_scalarIXadL_ZL9cpy_1_scalarIf6__halfEvPKcPcEEEvS3_S4_llllllllllllll", P(1), SHIM_WRITES, false},
	{"_ZL9cpy_f32_qIXadL_ZL13cpy_blck_f32_q8_0PKcPcEELi32EEvS1_S2_llllllllllllll", P(1), SHIM_WRITES, false},
	{"_ZL14flash_attn_extILi128EEvPKcS1_S1_", 0, SHIM_READS, false},
	/* both */
	{"void tensorrt_llm::kernels::mmha::masked_multihead_attention_kernel<...>(...)", 0, SHIM_FUSED, false},
};

static void names_that_engines_launch_are_known_for_what_they_write(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(kernels) / sizeof(*kernels); i++) {
		struct shim_written written;
		enum shim_role role = shim_role_of(kernels[i].name, &written);

		if (role != kernels[i].role || written.params != kernels[i].params)
			fail_msg("%s: role %d, parameters %llx", kernels[i].name, role,
				(unsigned long long)written.params);
		assert_true(!kernels[i].first_word == !written.count);
		if (kernels[i].first_word) {
			assert_true(written.parts == written.params);
			assert_true(P(written.word[0].param) == written.params);
			assert_true(written.word[0].offset == 0);
		}
	}
}

/* A user's own pattern counts even for a kernel that torch.compile has made. */
static void a_pattern_of_the_users_comes_first(void **state)
{
	struct shim_written written;

	(void)state;
	settings.writers = "triton_poi_fused_index_copy_3:1,*direct_copy_kernel_cuda*:1+504";
	assert_int_equal(shim_role_of("triton_poi_fused_index_copy_3", &written), SHIM_WRITES);
	assert_true(written.params == P(1));
	assert_int_equal(shim_role_of(kernels[4].name, &written), SHIM_WRITES);
	assert_true(written.parts == P(1) && written.word[0].offset == 504);
	settings.writers = NULL;
}

/* A probe sees no zeros that are stored where zeros are. */
static void beside_what_was_probed_only_fills_are_known(void **state)
{
	struct shim_written written;

	(void)state;
	settings.only_writers = true;
	assert_int_equal(shim_role_of(kernels[0].name, &written), SHIM_WRITES);
	for (size_t i = 2; i < sizeof(kernels) / sizeof(*kernels); i++)
		assert_int_equal(shim_role_of(kernels[i].name, &written),
			kernels[i].role == SHIM_FUSED ? SHIM_FUSED : SHIM_READS);
	settings.only_writers = false;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_that_engines_launch_are_known_for_what_they_write),
		cmocka_unit_test(a_pattern_of_the_users_comes_first),
		cmocka_unit_test(beside_what_was_probed_only_fills_are_known),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
