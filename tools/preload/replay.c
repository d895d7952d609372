/*
 * tools/preload/replay.c: hooks of launches of graphs. For `kvshare-run probe` a graph is run node by node: all others are
 * disabled meanwhile, so each node runs as the executable graph has it. Otherwise everything is passed on.
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
};
static struct executable *executables;
/* One that the program has destroyed, and an executable still needs. */
static struct kept {
	struct kept *next;
	CUgraph graph;
} * kept;

/* The nodes of a graph, each behind those that it depends on. */
struct nodes {
	size_t count;
	CUgraphNode *node, *shown; /* [count], of the graph and of the one with the parameters */
	unsigned *enabled;         /* [count], as the program has it */
};

static bool is_probed(void)
{
	return shim_settings()->probe_path != NULL;
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
	*made = (struct executable){executables, *exec, graph, graph, NULL};
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

/* ---- a graph's nodes ---- */

static bool is_behind(const struct nodes *nodes, size_t done, CUgraphNode node)
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
static void nodes_sort(struct nodes *nodes)
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

static void nodes_free(struct nodes *nodes)
{
	free(nodes->node);
	free(nodes->shown);
	free(nodes->enabled);
}

/* False: one of them can't run by itself, or cannot be told. */
static bool nodes_get(const struct executable *executable, struct nodes *out)
{
	const struct shim_real *driver = shim_real();
	size_t shown;

	*out = (struct nodes){0};
	if (!driver->cuGraphNodeSetEnabled || !driver->cuGraphNodeGetEnabled ||
		driver->cuGraphGetNodes(executable->graph, NULL, &out->count) || !out->count)
		return false;
	shown = out->count;
	out->node = calloc(out->count, sizeof(*out->node));
	out->shown = calloc(out->count, sizeof(*out->shown));
	out->enabled = calloc(out->count, sizeof(*out->enabled));
	if (!out->node || !out->shown || !out->enabled ||
		driver->cuGraphGetNodes(executable->graph, out->node, &out->count) ||
		driver->cuGraphGetNodes(executable->updated, out->shown, &shown) || shown != out->count)
		return false;
	nodes_sort(out);
	for (size_t i = 0; i < out->count; i++) {
		CUgraphNodeType type;

		if (driver->cuGraphNodeGetType(out->node[i], &type))
			return false;
		if (type != CU_GRAPH_NODE_TYPE_EMPTY &&
			driver->cuGraphNodeGetEnabled(executable->exec, out->node[i], &out->enabled[i]))
			return false;
	}
	return true;
}

static void nodes_enable(CUgraphExec exec, const struct nodes *nodes, bool on)
{
	for (size_t i = 0; i < nodes->count; i++)
		if (nodes->enabled[i])
			shim_real()->cuGraphNodeSetEnabled(exec, nodes->node[i], on);
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

static CUresult nodes_run(const struct executable *executable, const struct nodes *nodes, struct start *what)
{
	const struct shim_real *driver = shim_real();
	CUresult result = CUDA_SUCCESS;

	nodes_enable(what->exec, nodes, false);
	for (size_t i = 0; !result && i < nodes->count; i++) {
		const struct changed *changed = executable->changed;

		if (!nodes->enabled[i])
			continue;
		while (changed && changed->node != nodes->node[i])
			changed = changed->next;
		driver->cuGraphNodeSetEnabled(what->exec, nodes->node[i], 1);
		result = changed && changed->words && changed->kernel
				 ? probe_watch(changed->kernel, changed->words, start, what)
				 : node_watch(nodes->shown[i], what);
		driver->cuGraphNodeSetEnabled(what->exec, nodes->node[i], 0);
	}
	nodes_enable(what->exec, nodes, true);
	return result;
}

static CUresult launch_probed(struct start *what)
{
	static bool told;
	struct executable *executable;
	struct nodes nodes = {0};
	CUresult result;

	probe_lock();
	executable = executable_find(what->exec);
	if (executable && nodes_get(executable, &nodes)) {
		result = nodes_run(executable, &nodes, what);
	} else {
		if (!told)
			shim_say("probe cannot look into a graph, as not all of its nodes can run alone: what its "
				 "kernels write is not found");
		told = true;
		result = start(what);
	}
	nodes_free(&nodes);
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
			free(executable);
			kept_free();
		}
		probe_unlock();
	}
	return shim_real()->cuGraphExecDestroy(hGraphExec);
}
