/*
 * driver/simt/registry.h: what the module's constructors have collected when softcuda gets it (module.cpp).
 */
#ifndef KVS_SIMT_REGISTRY_H
#define KVS_SIMT_REGISTRY_H

#include "kernel.h"

#pragma GCC visibility push(hidden)

namespace simt
{

/* KVS_SIMT_SCHEDULE, read when the module is loaded. */
struct schedule {
	enum { FORWARD, REVERSE, RANDOM } order;
	uint64_t seed;
	bool is_valid;
	char setting[64]; /* as it was found, for the message that refuses it */
};

extern const schedule the_schedule;

constexpr size_t CANARY_BYTES = 32; /* on either side of a shared array */

size_t shared_slot_count();
size_t shared_room(); /* bytes for all static arrays of the module and their canaries */

} // namespace simt

#pragma GCC visibility pop

#endif
