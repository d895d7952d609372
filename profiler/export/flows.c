/*
 * profiler/export/flows.c: the ends of arrows that are known so far.
 */
#include "flows.h"

#include "../../driver/cu.h"

#include <errno.h>
#include <stdlib.h>

struct place_of {
	struct prof_place place;
	uint64_t what; /* a link or an address */
	bool is_launch;
};

/* Two that are mixed to one number are told apart by what they say, and then the later one wins: an arrow less, never a wrong one. */
static uint64_t key_of(uint32_t pid, uint64_t what)
{
	return what ^ (uint64_t)pid << 40 ^ (uint64_t)pid >> 24;
}

static int note(struct prof_map *map, struct place_of new)
{
	struct place_of *place = malloc(sizeof(*place));
	void *old = NULL;

	if (!place || !prof_map_set(map, key_of(new.place.pid, new.what), place, &old)) {
		free(place);
		return kvs_fail(-ENOMEM, "no memory for arrows");
	}
	*place = new;
	free(old);
	return 0;
}

static const struct place_of *find(const struct prof_map *map, uint32_t pid, uint64_t what)
{
	const struct place_of *place = prof_map_get(map, key_of(pid, what));

	return place && place->place.pid == pid && place->what == what ? place : NULL;
}

/* An arrow goes forward in time: clocks of two devices may not agree. */
static bool connect(
	struct prof_flows *flows, const struct prof_place *from, const struct prof_place *to, struct prof_flow *out)
{
	if (to->time_ns < from->time_ns)
		return false;
	*out = (struct prof_flow){*from, *to};
	flows->count++;
	return true;
}

int prof_flows_link(
	struct prof_flows *flows, struct prof_place place, uint32_t link, bool is_launch, struct prof_flow *out)
{
	const struct place_of *other = find(&flows->halves, place.pid, link);
	bool whole;

	if (!other || other->is_launch == is_launch) /* a number that is used again: the earlier one has no other end */
		return note(&flows->halves, (struct place_of){place, link, is_launch});
	whole = is_launch ? connect(flows, &place, &other->place, out) : connect(flows, &other->place, &place, out);
	free(prof_map_remove(&flows->halves, key_of(place.pid, link)));
	return whole;
}

int prof_flows_map(struct prof_flows *flows, struct prof_place place, uint64_t address)
{
	return note(&flows->mappings, (struct place_of){place, address, false});
}

bool prof_flows_share(struct prof_flows *flows, uint32_t pid, uint64_t first_address, uint64_t first_ns,
	uint64_t address, uint64_t time_ns, struct prof_flow *out)
{
	const struct place_of *from = find(&flows->mappings, pid, first_address),
			      *to = find(&flows->mappings, pid, address);

	return from && to && from->place.time_ns == first_ns && to->place.time_ns == time_ns &&
	       connect(flows, &from->place, &to->place, out);
}

void prof_flows_clear(struct prof_flows *flows)
{
	prof_map_clear(&flows->halves, free);
	prof_map_clear(&flows->mappings, free);
	*flows = (struct prof_flows){0};
}
