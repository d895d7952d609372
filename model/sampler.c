/*
 * model/sampler.c: the next token from the model's distribution.
 *
 * Greedy sampling stays on the device. Otherwise the device computes softmax at the temperature, and the host cuts the
 * distribution to the k most likely tokens, then to the smallest set that holds p of their mass (the order of
 * transformers' logits processors), and draws from it. The same seed gives the same draws.
 */
#include "model.h"

#include <errno.h>
#include <stdlib.h>

struct candidate {
	float p;
	int32_t id;
};

struct kvs_sampler {
	struct kvs_sampling options;
	int vocab;
	uint64_t state;
	float *probs;                 /* [vocab] */
	struct candidate *candidates; /* [vocab] */
};

static int check_options(const struct kvs_sampling *options)
{
	if (!(options->temperature >= 0 && options->temperature <= 1000))
		return kvs_fail(-EINVAL, "temperature is %g: 0 (greedy) to 1000", options->temperature);
	if (options->top_k < 0)
		return kvs_fail(-EINVAL, "top-k is %d: 0 (all) or more", options->top_k);
	if (!(options->top_p > 0 && options->top_p <= 1))
		return kvs_fail(-EINVAL, "top-p is %g: above 0, at most 1 (all)", options->top_p);
	return 0;
}

int kvs_sampler_create(const struct kvs_sampling *options, int vocab, kvs_sampler **out)
{
	kvs_sampler *sampler;
	int err = check_options(options);

	if (err)
		return err;
	sampler = calloc(1, sizeof(*sampler));
	if (!sampler)
		return kvs_fail(-ENOMEM, "no memory for a sampler");
	*sampler = (kvs_sampler){.options = *options,
		.vocab = vocab,
		.state = options->seed,
		.probs = malloc(sizeof(*sampler->probs) * vocab),
		.candidates = malloc(sizeof(*sampler->candidates) * vocab)};
	if (!sampler->probs || !sampler->candidates) {
		kvs_sampler_free(sampler);
		return kvs_fail(-ENOMEM, "no memory to sample from %d tokens", vocab);
	}
	*out = sampler;
	return 0;
}

void kvs_sampler_free(kvs_sampler *sampler)
{
	if (!sampler)
		return;
	free(sampler->probs);
	free(sampler->candidates);
	free(sampler);
}

/* splitmix64 (Steele, Lea and Flood 2014); its upper bits make a double in [0, 1). */
static double next_uniform(kvs_sampler *sampler)
{
	uint64_t z = sampler->state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* Most likely first, then the smaller id, so that the order is unique. */
static int compare_candidates(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->p != y->p)
		return x->p < y->p ? 1 : -1;
	return x->id - y->id;
}

/*
 * With top-p alone, a token less likely than (1 - top_p) / vocab cannot be in the set: all such tokens together hold
 * less than 1 - top_p. That leaves few to sort.
 */
static int gather(kvs_sampler *sampler, const float *probs)
{
	float floor = sampler->options.top_k ? 0 : (1 - sampler->options.top_p) / sampler->vocab;
	int count = 0;

	for (int32_t id = 0; id < sampler->vocab; id++)
		if (probs[id] >= floor)
			sampler->candidates[count++] = (struct candidate){probs[id], id};
	return count;
}

static double mass(const struct candidate *candidates, int count)
{
	double sum = 0;

	for (int i = 0; i < count; i++)
		sum += candidates[i].p;
	return sum;
}

static int cut(const kvs_sampler *sampler, int count)
{
	double total, sum = 0;
	int kept = 0;

	if (sampler->options.top_k && sampler->options.top_k < count)
		count = sampler->options.top_k;
	if (sampler->options.top_p >= 1)
		return count;
	total = sampler->options.top_k ? mass(sampler->candidates, count) : 1;
	while (kept < count && sum < sampler->options.top_p * total)
		sum += sampler->candidates[kept++].p;
	return kept;
}

int32_t kvs_sampler_pick(kvs_sampler *sampler, const float *probs)
{
	int count = gather(sampler, probs);
	double left;

	if (sampler->options.top_k || sampler->options.top_p < 1) {
		qsort(sampler->candidates, count, sizeof(*sampler->candidates), compare_candidates);
		count = cut(sampler, count);
	}
	left = next_uniform(sampler) * mass(sampler->candidates, count);
	for (int i = 0; i < count - 1; i++) {
		left -= sampler->candidates[i].p;
		if (left < 0)
			return sampler->candidates[i].id;
	}
	return count ? sampler->candidates[count - 1].id : -1;
}

int kvs_sampler_next(kvs_sampler *sampler, kvs_engine *engine, int32_t *id)
{
	int err;

	if (sampler->options.temperature == 0)
		return kvs_engine_argmax(engine, id);
	err = kvs_engine_probabilities(engine, sampler->options.temperature, sampler->probs);
	if (err)
		return err;
	*id = kvs_sampler_pick(sampler, sampler->probs);
	return *id < 0 ? kvs_fail(-EIO, "the model's probabilities are not numbers: its weights may be damaged") : 0;
}
