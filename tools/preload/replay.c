/*
 * tools/preload/replay.c: hooks of launches of graphs. For `kvshare-run probe` a graph is run node by node: all others are
 * disabled meanwhile, so each node runs as the executable graph has it; where not all can be, it is taken apart (mirror.c).
 * Otherwise everything is passed on.
 *
 * An executable graph tells nothing of its nodes; the graph that it was made of does, and is kept while the executable is there.
 */
#include "probe.h"

#include <stdlib.h>
#include <string.h>

/* A node whose parameters were set in the executable graph alone. */
struct changed {
	struct changed *next;
	CUgraphNode node;
	char *kernel;
	struct probe_words *words;
};
struct executable {
	struct executable *next;
	CUgraphExec exec;
	CUgraph graph;   /* its nodes are the handles */
	CUgraph updated; /* its nodes have the parameters, in the same order */
	struct changed *changed;
	struct probe_mirror *mirror; /* runs in its place; NULL: its nodes can be disabled, or nothing can be done */
};
static struct executable *executables;
/* One that the program has destroyed, and an executable still needs. */
static struct kept {
	struct kept *next;
	CUgraph graph;
} * kept;

static bool is_probed(void)
{
	return shim_settings()->probe_path != NULL;
}

/* ---- a graph's nodes ---- */

static bool is_behind(const struct probe_nodes *nodes, size_t done, CUgraphNode node)
{
	CUgraphNode before[256];
	size_t count = sizeof(before) / sizeof(*before);

	if (!shim_real()->cuGraphNodeGetDependencies_v2 ||
		shim_real()->cuGraphNodeGetDependencies_v2(node, before, NULL, &count))
		return true; /* as they were made */
	while (count--) {
		size_t at = 0;

		while (at < done && nodes->node[at] != before[count])
			at++;
		if (at == done)
			return false;
	}
	return true;
}

/* Both arrays get the order in which the nodes can run. */
static void nodes_sort(struct probe_nodes *nodes)
{
	for (size_t done = 0; done < nodes->count; done++) {
		size_t at = done;
		CUgraphNode node, shown;

		while (at + 1 < nodes->count && !is_behind(nodes, done, nodes->node[at]))
			at++;
		node = nodes->node[at];
		shown = nodes->shown[at];
		memmove(nodes->node + done + 1, nodes->node + done, (at - done) * sizeof(node));
		memmove(nodes->shown + done + 1, nodes->shown + done, (at - done) * sizeof(node));
		nodes->node[done] = node;
		nodes->shown[done] = shown;
	}
}

void probe_nodes_free(struct probe_nodes *nodes)
{
	free(nodes->node);
	free(nodes->shown);
}

bool probe_nodes_get(CUgraph graph, CUgraph content, struct probe_nodes *out)
{
	const struct shim_real *driver = shim_real();
	size_t shown;

	*out = (struct probe_nodes){0};
	if (!driver->cuGraphGetNodes || driver->cuGraphGetNodes(graph, NULL, &out->count) || !out->count)
		return false;
	shown = out->count;
	out->node = calloc(out->count, sizeof(*out->node));
	out->shown = calloc(out->count, sizeof(*out->shown));
	if (!out->node || !out->shown || driver->cuGraphGetNodes(graph, out->node, &out->count) ||
		driver->cuGraphGetNodes(content, out->shown, &shown) || shown != out->count)
		return false;
	nodes_sort(out);
	return true;
}

/* Some node of it cannot be disabled. */
static bool is_mixed(CUgraph graph)
{
	struct probe_nodes nodes;
	bool mixed = false;

	if (probe_nodes_get(graph, graph, &nodes))
		for (size_t i = 0; i < nodes.count; i++) {
			CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;

			shim_real()->cuGraphNodeGetType(nodes.node[i], &type);
			mixed |= type != CU_GRAPH_NODE_TYPE_EMPTY && !probe_node_can_be_disabled(type);
		}
	probe_nodes_free(&nodes);
	return mixed;
}

/* ---- executable graphs ---- */

static struct executable *executable_find(CUgraphExec exec)
{
	struct executable *found = executables;

	while (found && found->exec != exec)
		found = found->next;
	return found;
}

static void changed_free(struct executable *executable)
{
	for (struct changed *changed = executable->changed, *next; changed; changed = next) {
		next = changed->next;
		free(changed->kernel);
		free(changed->words);
		free(changed);
	}
	executable->changed = NULL;
}

static bool is_used(CUgraph graph)
{
	const struct executable *executable = executables;

	while (executable && executable->graph != graph && executable->updated != graph)
		executable = executable->next;
	return executable != NULL;
}

/* Destroys what the program has destroyed, and no executable needs any more. */
static void kept_free(void)
{
	struct kept **link = &kept;

	while (*link) {
		struct kept *one = *link;

		if (is_used(one->graph)) {
			link = &one->next;
			continue;
		}
		*link = one->next;
		shim_real()->cuGraphDestroy(one->graph);
		free(one);
	}
}

static CUresult instantiated(CUresult result, const CUgraphExec *exec, CUgraph graph)
{
	struct executable *made = !result && is_probed() ? calloc(1, sizeof(*made)) : NULL;

	if (!made)
		return result;
	probe_lock();
	*made = (struct executable){executables, *exec, graph, graph, NULL, NULL};
	if (is_mixed(graph))
		made->mirror = probe_mirror_make(graph, graph);
	executables = made;
	probe_unlock();
	return result;
}

void shim_probe_node_set(CUgraphExec exec, CUgraphNode node, const struct shim_launch *launch)
{
	struct changed *changed = launch->kernel ? calloc(1, sizeof(*changed)) : NULL;
	struct executable *executable;

	if (!changed)
		return;
	probe_lock();
	executable = executable_find(exec);
	if (executable) {
		*changed = (struct changed){
			executable->changed, node, strdup(launch->kernel->name), probe_words_of(launch)};
		executable->changed = changed; /* the newest is found first */
	} else {
		free(changed);
	}
	probe_unlock();
}

bool shim_probe_twin(CUgraphExec exec, CUgraphNode node, CUgraphExec *twin_exec, CUgraphNode *twin)
{
	struct executable *executable;
	bool found;

	if (!is_probed())
		return false;
	probe_lock();
	executable = executable_find(exec);
	found = executable && probe_mirror_twin(executable->mirror, node, twin_exec, twin);
	probe_unlock();
	return found;
}

void shim_probe_child_set(CUgraphExec exec, CUgraphNode node, CUgraph child)
{
	struct executable *executable;

	if (!is_probed())
		return;
	probe_lock();
	executable = executable_find(exec);
	if (executable && executable->mirror && !probe_mirror_set_child(executable->mirror, node, child)) {
		probe_mirror_free(executable->mirror);
		executable->mirror = NULL; /* it is run as a whole */
	}
	probe_unlock();
}

/* ---- a launch ---- */

struct start {
	CUgraphExec exec;
	CUstream stream;
	__typeof__(cuGraphLaunch) *plain;
};

static CUresult start(void *arg)
{
	const struct start *what = arg;

	return what->plain(what->exec, what->stream);
}

/* A node whose parameters are those of its graph. */
static CUresult node_watch(CUgraphNode node, struct start *what)
{
	CUDA_KERNEL_NODE_PARAMS params = {0};
	struct shim_launch launch = {0};
	struct probe_words *words;
	CUgraphNodeType type;
	CUresult result;

	if (shim_real()->cuGraphNodeGetType(node, &type) || type != CU_GRAPH_NODE_TYPE_KERNEL ||
		!shim_real()->cuGraphKernelNodeGetParams_v2 ||
		shim_real()->cuGraphKernelNodeGetParams_v2(node, &params))
		return start(what); /* a copy or a memset */
	launch.kernel = shim_kernel_of(params.func ? params.func : (CUfunction)params.kern);
	launch.params = params.kernelParams;
	launch.extra = params.extra;
	words = launch.kernel ? probe_words_of(&launch) : NULL;
	result = words ? probe_watch(launch.kernel->name, words, start, what) : start(what);
	free(words);
	return result;
}

/* What a launch of an executable is run by. */
struct replay {
	const struct executable *executable;
	struct start *what;
};

static CUresult node_run(void *arg, CUgraphExec exec, CUgraphNode program, CUgraphNode node)
{
	const struct replay *replay = arg;
	const struct changed *changed = replay->executable->changed;

	while (changed && changed->node != program)
		changed = changed->next;
	replay->what->exec = exec;
	return changed && changed->words && changed->kernel
		       ? probe_watch(changed->kernel, changed->words, start, replay->what)
		       : node_watch(node, replay->what);
}

/* As the program has them; false: one of them can't run by itself. */
static bool enabled_get(CUgraphExec exec, const struct probe_nodes *nodes, unsigned *enabled)
{
	const struct shim_real *driver = shim_real();

	for (size_t i = 0; i < nodes->count; i++) {
		CUgraphNodeType type;

		if (driver->cuGraphNodeGetType(nodes->node[i], &type) ||
			(type != CU_GRAPH_NODE_TYPE_EMPTY &&
				driver->cuGraphNodeGetEnabled(exec, nodes->node[i], &enabled[i])))
			return false;
	}
	return true;
}

static void nodes_enable(CUgraphExec exec, const struct probe_nodes *nodes, const unsigned *enabled, bool on)
{
	for (size_t i = 0; i < nodes->count; i++)
		if (enabled[i])
			shim_real()->cuGraphNodeSetEnabled(exec, nodes->node[i], on);
}

static CUresult nodes_run(struct replay *replay, const struct probe_nodes *nodes, const unsigned *enabled)
{
	const struct shim_real *driver = shim_real();
	CUgraphExec exec = replay->executable->exec;
	CUresult result = CUDA_SUCCESS;

	nodes_enable(exec, nodes, enabled, false);
	for (size_t i = 0; !result && i < nodes->count; i++) {
		if (!enabled[i])
			continue;
		driver->cuGraphNodeSetEnabled(exec, nodes->node[i], 1);
		result = node_run(replay, exec, nodes->node[i], nodes->shown[i]);
		driver->cuGraphNodeSetEnabled(exec, nodes->node[i], 0);
	}
	nodes_enable(exec, nodes, enabled, true);
	return result;
}

/* False: it cannot be run node by node. */
static bool replayed(struct replay *replay, CUresult *result)
{
	const struct executable *executable = replay->executable;
	struct probe_nodes nodes = {0};
	unsigned *enabled = NULL;
	bool done = executable && executable->mirror;

	if (done) {
		*result = probe_mirror_run(executable->mirror, executable->exec, node_run, replay);
		return true;
	}
	if (!executable || !shim_real()->cuGraphNodeSetEnabled || !shim_real()->cuGraphNodeGetEnabled)
		return false;
	if (probe_nodes_get(executable->graph, executable->updated, &nodes))
		enabled = calloc(nodes.count, sizeof(*enabled));
	done = enabled && enabled_get(executable->exec, &nodes, enabled);
	if (done)
		*result = nodes_run(replay, &nodes, enabled);
	free(enabled);
	probe_nodes_free(&nodes);
	return done;
}

static CUresult launch_probed(struct start *what)
{
	static bool told;
	struct replay replay = {.what = what};
	CUresult result;

	probe_lock();
	replay.executable = executable_find(what->exec);
	if (!replayed(&replay, &result)) {
		if (!told)
			shim_say("probe cannot look into a graph, as not all of its nodes can run alone: what its "
				 "kernels write is not found");
		told = true;
		result = start(what);
	}
	probe_unlock();
	return result;
}

static CUresult launch(CUgraphExec exec, CUstream stream, __typeof__(cuGraphLaunch) *plain)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPH_LAUNCHES);
	struct start what = {exec, stream, plain};

	if (!plain)
		return SHIM_ABSENT;
	return shim_fault_check(is_probed() && exec ? launch_probed(&what) : start(&what), NULL);
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream)
{
	return launch(hGraphExec, hStream, shim_real()->cuGraphLaunch);
}

CUresult CUDAAPI cuGraphLaunch_ptsz(CUgraphExec hGraphExec, CUstream hStream)
{
	return launch(hGraphExec, hStream, shim_real()->cuGraphLaunch_ptsz);
}

/* ---- what makes, changes and ends executable graphs ---- */

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPHS);
	__typeof__(cuGraphInstantiateWithFlags) *plain = shim_real()->cuGraphInstantiateWithFlags;

	return plain ? instantiated(plain(phGraphExec, hGraph, flags), phGraphExec, hGraph) : SHIM_ABSENT;
}

CUresult CUDAAPI cuGraphInstantiateWithParams(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPHS);
	__typeof__(cuGraphInstantiateWithParams) *plain = shim_real()->cuGraphInstantiateWithParams;

	return plain ? instantiated(plain(phGraphExec, hGraph, instantiateParams), phGraphExec, hGraph) : SHIM_ABSENT;
}

CUresult CUDAAPI cuGraphInstantiateWithParams_ptsz(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPHS);
	__typeof__(cuGraphInstantiateWithParams) *plain = shim_real()->cuGraphInstantiateWithParams_ptsz;

	return plain ? instantiated(plain(phGraphExec, hGraph, instantiateParams), phGraphExec, hGraph) : SHIM_ABSENT;
}

/* The forms of CUDA 11, which tell an error by a node and a text. */
CUresult CUDAAPI cuGraphInstantiate(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPHS);
	__typeof__(cuGraphInstantiate) *plain = shim_real()->cuGraphInstantiate;

	return plain ? instantiated(plain(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize), phGraphExec, hGraph)
		     : SHIM_ABSENT;
}

CUresult CUDAAPI cuGraphInstantiate_v2(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPHS);
	__typeof__(cuGraphInstantiate_v2) *plain = shim_real()->cuGraphInstantiate_v2;

	return plain ? instantiated(plain(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize), phGraphExec, hGraph)
		     : SHIM_ABSENT;
}

/* Without one it is run as a whole. */
static void mirror_renew(struct executable *executable, struct probe_mirror *mirror)
{
	probe_mirror_free(executable->mirror);
	executable->mirror = mirror;
}

static CUresult updated(CUresult result, CUgraphExec exec, CUgraph graph)
{
	struct executable *executable;

	if (result || !is_probed())
		return result;
	probe_lock();
	executable = executable_find(exec);
	if (executable) {
		executable->updated = graph;
		changed_free(executable);
		if (executable->mirror)
			mirror_renew(executable, probe_mirror_make(executable->graph, graph));
	}
	probe_unlock();
	return result;
}

CUresult CUDAAPI cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo *resultInfo)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPHS);
	__typeof__(cuGraphExecUpdate_v2) *plain = shim_real()->cuGraphExecUpdate_v2;

	return plain ? updated(plain(hGraphExec, hGraph, resultInfo), hGraphExec, hGraph) : SHIM_ABSENT;
}

CUresult CUDAAPI cuGraphExecUpdate(
	CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out, CUgraphExecUpdateResult *updateResult_out)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPHS);
	__typeof__(cuGraphExecUpdate) *plain = shim_real()->cuGraphExecUpdate;

	return plain ? updated(plain(hGraphExec, hGraph, hErrorNode_out, updateResult_out), hGraphExec, hGraph)
		     : SHIM_ABSENT;
}

/* ---- nodes of an executable that are not changed otherwise ---- */

CUresult CUDAAPI cuGraphExecChildGraphNodeSetParams(CUgraphExec hGraphExec, CUgraphNode hNode, CUgraph childGraph)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphExecChildGraphNodeSetParams) *plain = shim_real()->cuGraphExecChildGraphNodeSetParams;
	CUresult result = plain ? plain(hGraphExec, hNode, childGraph) : SHIM_ABSENT;

	if (!result)
		shim_probe_child_set(hGraphExec, hNode, childGraph);
	return result;
}

CUresult CUDAAPI cuGraphExecHostNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	__typeof__(cuGraphExecHostNodeSetParams) *plain = shim_real()->cuGraphExecHostNodeSetParams;
	CUresult result = plain ? plain(hGraphExec, hNode, nodeParams) : SHIM_ABSENT;

	if (!result && shim_probe_twin(hGraphExec, hNode, &hGraphExec, &hNode))
		plain(hGraphExec, hNode, nodeParams);
	return result;
}

static CUresult event_set(
	CUgraphExec exec, CUgraphNode node, CUevent event, __typeof__(cuGraphExecEventRecordNodeSetEvent) *plain)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_NODES);
	CUresult result = plain ? plain(exec, node, event) : SHIM_ABSENT;

	if (!result && shim_probe_twin(exec, node, &exec, &node))
		plain(exec, node, event);
	return result;
}

CUresult CUDAAPI cuGraphExecEventRecordNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event)
{
	return event_set(hGraphExec, hNode, event, shim_real()->cuGraphExecEventRecordNodeSetEvent);
}

CUresult CUDAAPI cuGraphExecEventWaitNodeSetEvent(CUgraphExec hGraphExec, CUgraphNode hNode, CUevent event)
{
	return event_set(hGraphExec, hNode, event, shim_real()->cuGraphExecEventWaitNodeSetEvent);
}

/* A graph that an executable was made of stays as long as that, as its nodes are asked for. */
CUresult CUDAAPI cuGraphDestroy(CUgraph hGraph)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPHS);
	struct kept *one = NULL;

	if (!shim_real()->cuGraphDestroy)
		return SHIM_ABSENT;
	if (is_probed()) {
		probe_lock();
		if (is_used(hGraph))
			one = malloc(sizeof(*one));
		if (one) {
			*one = (struct kept){kept, hGraph};
			kept = one;
		}
		probe_unlock();
	}
	return one ? CUDA_SUCCESS : shim_real()->cuGraphDestroy(hGraph);
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec hGraphExec)
{
	struct shim_timer timer SHIM_TIMED = shim_timer_start(SHIM_GRAPHS);
	struct executable **link = &executables, *executable = NULL;

	if (!shim_real()->cuGraphExecDestroy)
		return SHIM_ABSENT;
	if (is_probed()) {
		probe_lock();
		while (*link && (*link)->exec != hGraphExec)
			link = &(*link)->next;
		executable = *link;
		if (executable) {
			*link = executable->next;
			changed_free(executable);
			probe_mirror_free(executable->mirror);
			free(executable);
			kept_free();
		}
		probe_unlock();
	}
	return shim_real()->cuGraphExecDestroy(hGraphExec);
}
