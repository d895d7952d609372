/*
 * tools/preload/mirror.c: for `kvshare-run probe`, an executable graph of which some node cannot be disabled, taken apart.
 *
 * The driver disables nodes of kernels, copies and memsets alone, and none within a child graph. So those of one level go into an
 * executable of their own, every other node into one for itself, and child graphs are taken apart in the same way. All are made of
 * clones when the program makes its executable, and run one after the other in its place; what the program changes in
 * its executable is changed here too.
 */
#include "probe.h"

#include <stdlib.h>

struct step {
	CUgraphNode program; /* the program's handle */
	CUgraphNode node;    /* in a clone */
	CUgraph alone;       /* a clone with this node only; NULL: it is one of `rest`, or a child */
	CUgraphExec exec;    /* that of `alone`, or of `rest` */
	struct probe_mirror *child;
};
struct probe_mirror {
	CUgraph rest; /* nodes that can be disabled, and are unless they run */
	CUgraphExec rest_exec;
	size_t count;
	struct step step[];
};

/* All that is called here; a driver without one of them has no such graphs. */
static bool is_able(void)
{
	const struct shim_real *driver = shim_real();

	return driver->cuGraphClone && driver->cuGraphNodeFindInClone && driver->cuGraphDestroyNode &&
	       driver->cuGraphChildGraphNodeGetGraph && driver->cuGraphNodeSetEnabled && driver->cuGraphNodeGetType &&
	       driver->cuGraphInstantiateWithFlags && driver->cuGraphExecDestroy && driver->cuGraphDestroy;
}

static void step_free(struct step *step)
{
	const struct shim_real *driver = shim_real();

	if (step->alone && step->exec)
		driver->cuGraphExecDestroy(step->exec);
	if (step->alone)
		driver->cuGraphDestroy(step->alone);
	probe_mirror_free(step->child);
}

void probe_mirror_free(struct probe_mirror *mirror)
{
	if (!mirror)
		return;
	for (size_t i = 0; i < mirror->count; i++)
		step_free(&mirror->step[i]);
	if (mirror->rest_exec)
		shim_real()->cuGraphExecDestroy(mirror->rest_exec);
	if (mirror->rest)
		shim_real()->cuGraphDestroy(mirror->rest);
	free(mirror);
}

bool probe_node_can_be_disabled(CUgraphNodeType type)
{
	return type == CU_GRAPH_NODE_TYPE_KERNEL || type == CU_GRAPH_NODE_TYPE_MEMCPY ||
	       type == CU_GRAPH_NODE_TYPE_MEMSET;
}

static bool node_drop(CUgraphNode node, CUgraph clone)
{
	CUgraphNode copy;

	return !shim_real()->cuGraphNodeFindInClone(&copy, node, clone) && !shim_real()->cuGraphDestroyNode(copy);
}

/* A clone of the graph with this node alone. */
static bool alone_make(CUgraph graph, const struct probe_nodes *nodes, size_t at, struct step *step)
{
	const struct shim_real *driver = shim_real();

	if (driver->cuGraphClone(&step->alone, graph)) {
		step->alone = NULL;
		return false;
	}
	for (size_t i = 0; i < nodes->count; i++)
		if (i != at && !node_drop(nodes->shown[i], step->alone))
			return false;
	return !driver->cuGraphNodeFindInClone(&step->node, nodes->shown[at], step->alone) &&
	       !driver->cuGraphInstantiateWithFlags(&step->exec, step->alone, 0);
}

static bool step_make(struct probe_mirror *mirror, CUgraph graph, const struct probe_nodes *nodes, size_t at)
{
	const struct shim_real *driver = shim_real();
	CUgraphNode shown = nodes->shown[at];
	CUgraphNodeType type;
	struct step *step;
	CUgraph child;

	if (driver->cuGraphNodeGetType(shown, &type))
		return false;
	if (type == CU_GRAPH_NODE_TYPE_EMPTY)
		return true;
	step = &mirror->step[mirror->count++];
	step->program = nodes->node[at];
	if (probe_node_can_be_disabled(type))
		return !driver->cuGraphNodeFindInClone(&step->node, shown, mirror->rest);
	if (!node_drop(shown, mirror->rest))
		return false;
	if (type != CU_GRAPH_NODE_TYPE_GRAPH)
		return alone_make(graph, nodes, at, step);
	if (!driver->cuGraphChildGraphNodeGetGraph(shown, &child))
		step->child = probe_mirror_make(child, child);
	return step->child != NULL;
}

static bool rest_make(struct probe_mirror *mirror)
{
	const struct shim_real *driver = shim_real();
	bool made = !driver->cuGraphInstantiateWithFlags(&mirror->rest_exec, mirror->rest, 0);

	for (size_t i = 0; made && i < mirror->count; i++) {
		struct step *step = &mirror->step[i];

		if (step->alone || step->child)
			continue;
		step->exec = mirror->rest_exec;
		made = !driver->cuGraphNodeSetEnabled(step->exec, step->node, 0);
	}
	return made;
}

struct probe_mirror *probe_mirror_make(CUgraph handles, CUgraph content)
{
	struct probe_mirror *mirror = NULL;
	struct probe_nodes nodes = {0};
	bool made = is_able() && probe_nodes_get(handles, content, &nodes);

	if (made)
		mirror = calloc(1, sizeof(*mirror) + nodes.count * sizeof(*mirror->step));
	made = mirror && !shim_real()->cuGraphClone(&mirror->rest, content);
	for (size_t i = 0; made && i < nodes.count; i++)
		made = step_make(mirror, content, &nodes, i);
	made = made && rest_make(mirror);
	probe_nodes_free(&nodes);
	if (made)
		return mirror;
	probe_mirror_free(mirror);
	return NULL;
}

/* A node that the program has disabled in its executable. */
static bool is_disabled(CUgraphExec program, const struct step *step)
{
	const struct shim_real *driver = shim_real();
	unsigned enabled = 1;

	return program && driver->cuGraphNodeGetEnabled &&
	       !driver->cuGraphNodeGetEnabled(program, step->program, &enabled) && !enabled;
}

CUresult probe_mirror_run(struct probe_mirror *mirror, CUgraphExec program, probe_node_fn *run, void *arg)
{
	const struct shim_real *driver = shim_real();
	CUresult result = CUDA_SUCCESS;

	for (size_t i = 0; !result && i < mirror->count; i++) {
		struct step *step = &mirror->step[i];
		bool rests = !step->alone && !step->child;

		if (is_disabled(program, step))
			continue;
		if (rests)
			driver->cuGraphNodeSetEnabled(step->exec, step->node, 1);
		result = step->child ? probe_mirror_run(step->child, NULL, run, arg)
				     : run(arg, step->exec, step->program, step->node);
		if (rests)
			driver->cuGraphNodeSetEnabled(step->exec, step->node, 0);
	}
	return result;
}

static struct step *step_find(struct probe_mirror *mirror, CUgraphNode program)
{
	for (size_t i = 0; mirror && i < mirror->count; i++)
		if (mirror->step[i].program == program)
			return &mirror->step[i];
	return NULL;
}

bool probe_mirror_twin(struct probe_mirror *mirror, CUgraphNode program, CUgraphExec *exec, CUgraphNode *node)
{
	const struct step *step = step_find(mirror, program);

	if (!step || step->child)
		return false;
	*exec = step->exec;
	*node = step->node;
	return true;
}

bool probe_mirror_set_child(struct probe_mirror *mirror, CUgraphNode program, CUgraph child)
{
	struct step *step = step_find(mirror, program);
	struct probe_mirror *made = step && step->child ? probe_mirror_make(child, child) : NULL;

	if (!made)
		return false;
	probe_mirror_free(step->child);
	step->child = made;
	return true;
}
