/*
 * attn/attn.h: the kernels of a Llama forward pass, and GEMM.
 *
 * A kvs_stream is a CUDA stream with the kernels loaded for its device and a GEMM library bound to it; the driver's own
 * name for the stream is its handle, a CUstream. Every launcher checks the sizes and types of its operands (-EINVAL,
 * with both sides named), enqueues on the stream and returns 0 or the driver's error. None of them waits. `bytes_moved`
 * counts the bytes that each launch must read and write at least, so that time can be compared with the device's
 * bandwidth.
 *
 * Types. The residual stream, GEMM outputs, logits and norms are f32. The weights of a GEMM (`w`) have 2 or 4 bytes, its
 * `x` their type on a GPU, and f32 on the host, where weights may also be quantised. K and V have a type of their own.
 * Matrices are row-major, dense and aligned to 16 bytes.
 */
#ifndef KVS_ATTN_H
#define KVS_ATTN_H

#include "cu.h"
#include "format.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvs_tensor {
	CUdeviceptr data;
	enum kvs_dtype dtype;
	int rows, cols; /* [rows][cols], row-major, dense */
} kvs_tensor;

typedef struct kvs_stream kvs_stream;

/* The GPU architectures that this build has kernels for, as "80 86 90"; "": it has none for GPUs. */
const char *kvs_kernels_gpu_archs(void);
/* Whether this build has kernels for the device: -ENOTSUP, and the message says which ones it has or how to build them. */
int kvs_kernels_check(const kvs_cu *cu);

/*
 * Create a stream, load the kernels for `cu`'s device and bind GEMM: cuBLAS on a GPU (dlopened here), our own on the
 * host, or OpenBLAS where the processor or KVS_HOST_KERNELS does not allow that. -ENODEV (a library is missing; the message
 * says which package has it), -ENOTSUP (device too old, or KVS_HOST_KERNELS names a set of instructions that the processor
 * lacks), -EIO.
 */
int kvs_stream_open(kvs_cu *cu, kvs_stream **out);
void kvs_stream_close(kvs_stream *s); /* waits for the stream; NULL is fine */
CUstream kvs_stream_handle(const kvs_stream *s);
int kvs_stream_synchronize(kvs_stream *s); /* errors of earlier launches surface here */
/*
 * From now on kvs_stream_synchronize() calls `stop` while it waits, at least every 20 ms, and returns -ECANCELED once
 * that returns true. Work that was launched goes on, so nothing that it uses may be freed before a wait without `stop`
 * (NULL); kvs_stream_close() is such a wait.
 */
void kvs_stream_stop_when(kvs_stream *s, bool (*stop)(void));
uint64_t kvs_stream_bytes_moved(const kvs_stream *s); /* by all launches so far */

/*
 * To measure the cost of a part of a pass: from now on launches of the named parts are left out (0: none). Operands are
 * still checked; outputs stay unchanged.
 */
enum kvs_part {
	KVS_PART_GEMM = 1,
	KVS_PART_ATTENTION = 2,
	KVS_PART_ROPE_APPEND = 4,
	KVS_PART_ROWS = 8,    /* embed, rmsnorm, silu_mul, add_row, cast */
	KVS_PART_LOGITS = 16, /* argmax, nll, softmax */
};
void kvs_stream_leave_out(kvs_stream *s, unsigned parts);

/*
 * Whether OpenBLAS can be loaded and used with that many threads: where the address space or the threads that it needs
 * are missing it hangs, or ends the program (openblas_room.c). -ENOMEM, -EAGAIN. kvs_stream_open() checks this itself.
 */
int kvs_openblas_check_room(int threads);
/*
 * The library, to look functions up in; the caller gives the handle to dlclose(). Where nobody has loaded it yet, its room
 * is checked first, for a thread on each processor, and it is loaded with the same kernels on every processor with AVX2: the
 * variable OPENBLAS_CORETYPE is set meanwhile, unless it is set. `who` needs it, in messages. -ENODEV, and as above.
 */
int kvs_openblas_open(const char *who, void **handle);

/*
 * The type in which GEMM on this stream takes weights that a checkpoint stores as `stored`: OpenBLAS has only f32, a GPU
 * no quantised types.
 */
enum kvs_dtype kvs_gemm_dtype(const kvs_stream *s, enum kvs_dtype stored);
/* The type of x beside weights of type `w`: on the host always f32. */
enum kvs_dtype kvs_gemm_x_dtype(const kvs_stream *s, enum kvs_dtype w);

/*
 * out = x * wᵀ + (accumulate ? out : 0). out f32 [tokens][n] taken as rows of `out_stride` elements (0: dense), x [tokens][k],
 * w [n][k], of the types that kvs_gemm_x_dtype() and kvs_gemm_dtype() give. The residual add of a Llama layer is `accumulate`.
 */
int kvs_gemm(kvs_stream *s, kvs_tensor out, int out_stride, kvs_tensor x, kvs_tensor w, bool accumulate);

/*
 * The same for one row, by our own kernel, which reads w at the speed of memory; kvs_gemm() uses it on GPUs where it
 * can. out f32 [1][n], x [1][k], w [n][k], x and w of one float type, aligned to 16 bytes, their rows multiples of 16
 * bytes.
 */
int kvs_gemv(kvs_stream *s, kvs_tensor out, kvs_tensor x, kvs_tensor w, bool accumulate);

/* out f32 [tokens][hidden] = table[ids[t]]; table of any type of weights [vocab][hidden]; ids i32 [tokens][1]. */
int kvs_embed(kvs_stream *s, kvs_tensor out, kvs_tensor table, kvs_tensor ids);

/* out[r][c] = x[r][c] / sqrt(mean(x[r]²) + eps) * gain[c]. x f32, gain f32 [1][cols], out of any float type. */
int kvs_rmsnorm(kvs_stream *s, kvs_tensor out, kvs_tensor x, kvs_tensor gain, float eps);

/*
 * out[t][i] = silu(gate[t][i]) * up[t][i]; gate_up f32 [tokens][2 * ff], gate first; out [tokens][ff] of any float
 * type.
 */
int kvs_silu_mul(kvs_stream *s, kvs_tensor out, kvs_tensor gate_up);

/* x[r][c] += row[c], in place: for biases that no other kernel adds. x f32 [rows][cols], row f32 [1][cols]. */
int kvs_add_row(kvs_stream *s, kvs_tensor x, kvs_tensor row);

/* out[r][c] = x[r][c], rounded to out's type: the output of one GEMM as the x of another. x f32, out of any float type. */
int kvs_cast(kvs_stream *s, kvs_tensor out, kvs_tensor x);

/* The K and V of one layer and one sequence, `[token][kv_head][head_dim]`. */
typedef struct kvs_kv {
	CUdeviceptr k, v;
	struct kvs_kv_format format;
	int tokens; /* capacity, for the checks */
} kvs_kv;

/*
 * The step between the QKV projection and attention, for tokens at positions start .. start + tokens - 1: adds the
 * biases, normalises Q and K per head (Qwen3), rotates Q and K, writes Q back in place and appends K and V to the
 * cache. A layer that borrows K (V) neither computes nor writes it: its part of `qkv` is not read, and kv.k (kv.v) not
 * written.
 */
struct kvs_rope_append {
	kvs_tensor qkv;            /* f32 [tokens][(heads + 2 * kv_heads) * head_dim], Q then K then V; in and out */
	kvs_tensor bias;           /* f32 [1][(heads + 2 * kv_heads) * head_dim], or data 0 */
	kvs_tensor q_gain, k_gain; /* f32 [1][head_dim], or data 0 */
	kvs_tensor rope;           /* f32 [positions][head_dim]: cos and sin of pair i at [2 * i] and [2 * i + 1] */
	kvs_kv kv;
	int heads, start;
	float eps; /* of the Q and K norm */
	bool own_k, own_v;
};
int kvs_rope_append(kvs_stream *s, const struct kvs_rope_append *args);

/*
 * out[t][h] = softmax(scale * q[t][h] · K) V over the keys that position start + t sees: 0 .. start + t, of which with
 * a window only the last `window`. Query head h reads KV head h / (heads / kv_heads). The K and V of positions up to
 * start + tokens - 1 must have been written by earlier launches. One token takes the decode path (split over the keys,
 * combined; `workspace` holds the parts), more take the prefill path (tiles; mma where K and V are f16 or bf16). The
 * result of a query row does not depend on how the prompt was divided into calls of several tokens.
 */
struct kvs_attention {
	kvs_tensor out;       /* any float type [tokens][heads * head_dim] */
	kvs_tensor qkv;       /* f32 [tokens][(heads + 2 * kv_heads) * head_dim]: Q is its first columns */
	kvs_kv kv;            /* head_dim 32, 64, 80, 96, 128 or 256 */
	kvs_tensor workspace; /* f32 [1][at least kvs_attention_workspace(...)], at a multiple of 16 bytes */
	int heads, start;
	int window; /* 0: none */
	float scale;
};
int kvs_attention(kvs_stream *s, const struct kvs_attention *args);
/*
 * For f16 and bf16 K and V, decode has two kernels: one with tensor cores, the default on a GPU, and one without, the
 * default on the host, which emulates them. Both are correct; tests run both everywhere.
 */
void kvs_stream_set_decode_mma(kvs_stream *s, bool mma);
size_t kvs_attention_workspace(const kvs_stream *s, int heads, int head_dim); /* f32 elements */

/*
 * ids[r] = the first index of the largest logit of row r, or -1 if that is infinite or the row has a NaN: such logits
 * have no answer. ids i32 [rows][1], logits f32 [rows][vocab].
 */
int kvs_argmax(kvs_stream *s, kvs_tensor ids, kvs_tensor logits);
/* nll[r] = logsumexp(logits[r]) - logits[r][targets[r]]. nll f32 [rows][1], targets i32 [rows][1]. */
int kvs_nll(kvs_stream *s, kvs_tensor nll, kvs_tensor logits, kvs_tensor targets);
/* probs[r] = softmax(logits[r] / temperature); temperature > 0; may be in place. Both f32 [rows][vocab]. */
int kvs_softmax(kvs_stream *s, kvs_tensor probs, kvs_tensor logits, float temperature);

/*
 * sum = the 32-bit words of `bytes` bytes at `data`, modulo 2^32: reads memory and does little else. sum i32 [1][1]; data and
 * bytes are multiples of 16.
 */
int kvs_checksum(kvs_stream *s, kvs_tensor sum, CUdeviceptr data, size_t bytes);

#ifdef __cplusplus
}
#endif
#endif
