/*
 * model/rope.c: the table of rotations, cos and sin for each position and pair.
 *
 * The frequencies follow Hugging Face transformers (modeling_rope_utils.py), in float where it computes in float, so that
 * a checkpoint gets the angles that it was trained with. A table is computed once, for the whole context.
 */
#include "engine.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

static double pair_frequency(double theta, int pair, int head_dim)
{
	return 1.0 / pow(theta, 2.0 * pair / head_dim);
}

/* Llama 3.1: long waves are slowed by `factor`, short ones kept, others blended (Llama 3.1 release, apply_scaling). */
static double llama3_frequency(const struct kvs_config *config, double frequency)
{
	double low = config->rope.low_freq_factor, high = config->rope.high_freq_factor;
	double wavelength = 2 * M_PI / frequency;
	double turns = config->rope.original_positions / wavelength;

	if (turns < low)
		return frequency / config->rope.factor;
	if (turns > high)
		return frequency;
	double smooth = (turns - low) / (high - low);
	return (1 - smooth) * frequency / config->rope.factor + smooth * frequency;
}

/* The pair that turns `turns` times over the original context (YaRN, arXiv 2309.00071, section 3.2). */
static double yarn_pair(const struct kvs_config *config, double turns)
{
	return config->head_dim * log(config->rope.original_positions / (turns * 2 * M_PI)) /
	       (2 * log(config->rope.theta));
}

static double yarn_frequency(const struct kvs_config *config, double frequency, int pair)
{
	double low = yarn_pair(config, config->rope.beta_fast), high = yarn_pair(config, config->rope.beta_slow);

	if (config->rope.truncate) {
		low = floor(low);
		high = ceil(high);
	}
	low = fmax(low, 0);
	high = fmin(high, config->head_dim - 1);
	if (low == high)
		high += 0.001; /* the ramp would divide by zero */
	double interpolated = fmin(fmax((pair - low) / (high - low), 0), 1);
	return frequency / config->rope.factor * interpolated + frequency * (1 - interpolated);
}

static double yarn_mscale(double factor, double mscale)
{
	return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

/* YaRN scales queries and keys so that the softmax keeps its temperature; HF folds that into cos and sin. */
static double rope_amplitude(const struct kvs_config *config)
{
	if (config->rope.type != KVS_ROPE_YARN)
		return 1;
	if (config->rope.attention_factor > 0)
		return config->rope.attention_factor;
	if (config->rope.mscale > 0 && config->rope.mscale_all_dim > 0)
		return yarn_mscale(config->rope.factor, config->rope.mscale) /
		       yarn_mscale(config->rope.factor, config->rope.mscale_all_dim);
	return yarn_mscale(config->rope.factor, 1);
}

/*
 * Dynamic NTK raises theta once the context is longer than the original. HF raises it as a sequence grows; keys that
 * stay in a cache need one theta, so here it is that of the whole context.
 */
static double rope_theta(const struct kvs_config *config, int positions)
{
	double factor = config->rope.factor, original = config->max_positions;
	int dim = config->head_dim;

	if (config->rope.type != KVS_ROPE_DYNAMIC || positions <= original)
		return config->rope.theta;
	return config->rope.theta * pow(factor * positions / original - (factor - 1), (double)dim / (dim - 2));
}

static float scaled_frequency(const struct kvs_config *config, double theta, int pair)
{
	double frequency = pair_frequency(theta, pair, config->head_dim);

	switch (config->rope.type) {
	case KVS_ROPE_LINEAR:
		return frequency / config->rope.factor;
	case KVS_ROPE_LLAMA3:
		return llama3_frequency(config, frequency);
	case KVS_ROPE_YARN:
		return yarn_frequency(config, frequency, pair);
	case KVS_ROPE_DEFAULT:
	case KVS_ROPE_DYNAMIC:
		break;
	}
	return frequency;
}

int model_rope_table(const struct kvs_config *config, int positions, float **out)
{
	int pairs = config->head_dim / 2;
	double theta = rope_theta(config, positions), amplitude = rope_amplitude(config);
	float *table = malloc(sizeof(*table) * positions * config->head_dim);

	if (!table)
		return kvs_fail(-ENOMEM, "no memory for the rotations of %d positions", positions);
	for (int pair = 0; pair < pairs; pair++) {
		float frequency = scaled_frequency(config, theta, pair);
		for (int position = 0; position < positions; position++) {
			float angle = (float)position * frequency;
			float *entry = table + (size_t)position * config->head_dim + 2 * pair;
			entry[0] = cos(angle) * amplitude;
			entry[1] = sin(angle) * amplitude;
		}
	}
	*out = table;
	return 0;
}
