/*
 * tests/e2e/bad_input_test.c: for any bad input kvshare-run prints one line that names the fault, and exits with 1 (2 for
 * usage). It never crashes, hangs or prints half a result.
 */
#include "../support/process.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MODEL "tests/models/storyworld-3m"

/* Sets the last 64 bf16 of the weights to these two bytes. */
#define LAST_BYTES(two)                                                                                                \
	"for i in $(seq 64); do printf '" two "'; done | dd of=$T/m/model.safetensors conv=notrunc oflag=seek_bytes "  \
	"seek=$(($(stat -c %s $T/m/model.safetensors) - 128)) 2>/dev/null; "

/* $T is a fresh directory with a copy of the model in $T/m. */
static const struct bad_input inputs[] = {
	{"a negative count", "kvshare-run -m $T/m -p x -n -1", 2, "-n is \"-1\""},
	{"a count that is no number", "kvshare-run -m $T/m -p x -n many", 2, "-n is \"many\""},
	{"no model", "kvshare-run generate -p x", 2, "-m DIR"},
	{"no prompt", "kvshare-run generate -m $T/m", 2, "-p TEXT"},
	{"an unknown command", "kvshare-run frobnicate", 2, "no command \"frobnicate\""},
	{"plan and owners at once", "kvshare-run -m $T/m -p x --plan a --owners 0", 2, "--plan and --owners"},
	{"an unknown type of K and V", "kvshare-run -m $T/m -p x --kv-dtype int3", 2, "int3"},
	{"a directory that is not there", "kvshare-run -m $T/none -p x", 1, "none/config.json"},
	{"an unknown device", "kvshare-run -m $T/m -p x --device abacus", 2, "abacus"},
	{"a GPU where there is none", "LD_LIBRARY_PATH=$T kvshare-run -m $T/m -p x --device cuda:97", 1, "cuda"},
	{"a prompt longer than the context", "kvshare-run -m $T/m -f $T/m/heldout.txt --ctx 128", 1, "--ctx"},
	{"an empty prompt", "kvshare-run -m $T/m -p ''", 1, "prompt is empty"},
	{"a prompt file that is not there", "kvshare-run -m $T/m -f $T/nothing", 1, "nothing"},
	{"a plan for another number of layers", "kvshare-run -m $T/m -p x --owners 0,0,0", 1, "16"},
	{"an owner above its layer", "kvshare-run -m $T/m -p x --owners 0,2,2", 2, "owner"},
	{"owners that are no numbers", "kvshare-run -m $T/m -p x --owners 0,one", 2, "owners: character 3"},
	{"a plan for another model",
		"echo '{\"kvshare_plan\":1,\"layers\":16,\"k_owners\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15],"
		"\"v_owners\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15],"
		"\"model\":{\"architecture\":\"mistral\",\"layers\":16,\"kv_heads\":2,\"head_dim\":32}}' >$T/p;"
		"kvshare-run -m $T/m -p x --plan $T/p",
		1, "mistral"},
	{"a plan that is no JSON", "echo '{' >$T/p; kvshare-run -m $T/m -p x --plan $T/p", 1, "/p"},
	{"a temperature below zero", "kvshare-run -m $T/m -p x --temperature -1", 2, "temperature"},
	{"a top-p of nothing", "kvshare-run -m $T/m -p x --temperature 1 --top-p 0", 2, "top-p"},
	{"truncated weights", "truncate -s 3000000 $T/m/model.safetensors; kvshare-run -m $T/m -p x", 1,
		"model.safetensors"},
	{"weights cut inside the header", "truncate -s 100 $T/m/model.safetensors; kvshare-run -m $T/m -p x", 1,
		"model.safetensors"},
	{"weights that are not numbers, greedily",
		LAST_BYTES("\\377\\377") "kvshare-run -m $T/m -p x -n 4 --device host", 1, "logits are not numbers"},
	{"infinite weights, greedily", LAST_BYTES("\\200\\177") "kvshare-run -m $T/m -p x -n 4 --device host", 1,
		"logits are not numbers"},
	{"infinite weights, drawn",
		LAST_BYTES("\\200\\177") "kvshare-run -m $T/m -p x -n 4 --device host --temperature 1", 1,
		"logits are not numbers"},
	{"infinite weights, scored",
		LAST_BYTES(
			"\\200\\177") "kvshare-run eval -m $T/m --text $T/m/heldout.txt --max-tokens 40 --device host",
		1, "the loss is not a number"},
	{"no weights", "rm $T/m/model.safetensors; kvshare-run -m $T/m -p x", 1, "model.safetensors"},
	{"a header of 2^63 bytes",
		"printf '\\377\\377\\377\\377\\377\\377\\377\\177' | dd of=$T/m/model.safetensors conv=notrunc "
		"2>/dev/null; kvshare-run -m $T/m -p x",
		1, "model.safetensors"},
	{"a billion layers",
		"sed -i 's/\"num_hidden_layers\": 16/\"num_hidden_layers\": 1000000000/' $T/m/config.json; "
		"kvshare-run -m $T/m -p x",
		1, "num_hidden_layers"},
	{"more layers than there are weights",
		"sed -i 's/\"num_hidden_layers\": 16/\"num_hidden_layers\": 17/' $T/m/config.json; "
		"kvshare-run -m $T/m -p x",
		1, "model.layers.16."},
	{"an architecture that is not supported",
		"sed -i 's/\"model_type\": \"llama\"/\"model_type\": \"mamba\"/' $T/m/config.json; "
		"kvshare-run -m $T/m -p x",
		1, "mamba"},
	{"a shard that is missing",
		"rm $T/m/model.safetensors; echo '{\"weight_map\":{\"model.norm.weight\":\"model-00001-of-00002."
		"safetensors\"}}' >$T/m/model.safetensors.index.json; kvshare-run -m $T/m -p x",
		1, "model-00001-of-00002.safetensors"},
	{"a tokenizer that is damaged", "truncate -s 9000 $T/m/tokenizer.json; kvshare-run -m $T/m -p x", 1,
		"tokenizer.json"},
	{"a tokenizer that is a pipe",
		"rm $T/m/tokenizer.json; mkfifo $T/m/tokenizer.json; timeout 20 kvshare-run -m $T/m -p x", 1,
		"tokenizer.json: not a regular file"},
	{"SentencePiece's file alone", "mv $T/m/tokenizer.json $T/m/tokenizer.model; kvshare-run -m $T/m -p x", 1,
		"AutoTokenizer"},
	{"the name of a model on the Hub", "kvshare-run -m meta-llama/Llama-3.2-1B -p x", 1,
		"hf download meta-llama/Llama-3.2-1B"},
	{"a model in a cache of the Hub",
		"mkdir -p $T/c/models--a--b/snapshots; mv $T/m $T/c/models--a--b/snapshots/0123; "
		"kvshare-run -m $T/c/models--a--b -p x",
		1, "/c/models--a--b/snapshots/0123 has: give that"},
	{"its snapshots",
		"mkdir -p $T/c/models--a--b/snapshots; mv $T/m $T/c/models--a--b/snapshots/0123; "
		"kvshare-run -m $T/c/models--a--b/snapshots -p x",
		1, "/c/models--a--b/snapshots/0123 has: give that"},
	{"the whole cache",
		"mkdir -p $T/c/models--a--b/snapshots; mv $T/m $T/c/models--a--b/snapshots/0123; "
		"kvshare-run -m $T/c -p x",
		1, "/c/models--a--b/snapshots/0123 has: give that"},
	{"the folder above", "kvshare-run -m $T -p x", 1, "/m has: give that"},
	{"a file of weights", "kvshare-run -m $T/m/model.safetensors -p x", 1, "give the directory that holds it"},
	{"a GGUF file", "printf GGUF0000 >$T/m.gguf; kvshare-run -m $T/m.gguf -p x", 1, "has GGUF version 808464432"},
	{"a folder with a GGUF file", "mkdir $T/g; printf GGUF0000 >$T/g/m.gguf; kvshare-run -m $T/g -p x", 1,
		"m.gguf is a GGUF file"},
	{"an adapter", "mkdir $T/a; echo {} >$T/a/adapter_config.json; kvshare-run -m $T/a -p x", 1, "an adapter"},
	{"a text file for a model", "kvshare-run -m $T/m/heldout.txt -p x", 1,
		"heldout.txt is a file: give a directory"},
	{"weights in a pickle", "mv $T/m/model.safetensors $T/m/pytorch_model.bin; kvshare-run -m $T/m -p x", 1,
		"pytorch_model.bin is a PyTorch pickle"},
	{"weights that Git LFS has not fetched",
		"printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:0\\nsize 1\\n' "
		">$T/m/model.safetensors; "
		"kvshare-run -m $T/m -p x",
		1, "model.safetensors is a Git LFS pointer"},
	{"a tokenizer that Git LFS has not fetched",
		"printf 'version https://git-lfs.github.com/spec/v1\\noid sha256:0\\nsize 1\\n' >$T/m/tokenizer.json; "
		"kvshare-run -m $T/m -p x",
		1, "tokenizer.json is a Git LFS pointer"},
	{"a web page for a configuration", "echo '<!doctype html>' >$T/m/config.json; kvshare-run -m $T/m -p x", 1,
		"config.json is a web page"},
	{"weights renamed from GGUF", "printf GGUF00000000 >$T/m/model.safetensors; kvshare-run -m $T/m -p x", 1,
		"model.safetensors is a GGUF file"},
	{"device memory too small for the weights", "SOFTCUDA_MEMORY=4M kvshare-run -m $T/m -p x --device host", 1,
		"CUDA_ERROR_OUT_OF_MEMORY"},
	{"device memory too small for the cache",
		"SOFTCUDA_GRANULARITY=2M SOFTCUDA_MEMORY=48M kvshare-run -m $T/m -p x --device host", 1,
		"CUDA_ERROR_OUT_OF_MEMORY"},
	{"a full disk under stdout", "kvshare-run -m $T/m -p x -n 4 --device host --json >/dev/full", 1, "stdout"},
	{"a conversation with a model that has no chat template", "kvshare-run -m $T/m --chat -p x", 1,
		"no chat template"},
	{"a chat template of no known form",
		"echo '{{ messages[0].content }}' >$T/m/chat_template.jinja; kvshare-run -m $T/m --chat -p x", 1,
		"chat_template.jinja: the template is of none of the forms"},
	{"a chat template whose tokens are not in the vocabulary",
		"echo '{\"chat_template\": \"{{ \\u0027<|im_start|>\\u0027 + message.role + \\u0027\\\\n\\u0027 + "
		"message.content + \\u0027<|im_end|>\\\\n\\u0027 }}{{ \\u0027<|im_start|>assistant\\\\n\\u0027 }}\"}' "
		">$T/m/tokenizer_config.json; kvshare-run -m $T/m --chat -p x --device host",
		1, "<|im_start|>, which is no token of this vocabulary"},
	{"a system message where the chat template has none",
		"echo \"{{ '[INST]' + message.content + '[/INST]' }}\" >$T/m/chat_template.jinja; "
		"kvshare-run -m $T/m --chat --system y -p x --device host",
		1, "has no system message"},
	{"an empty message",
		"echo \"{{ '[INST]' + message.content + '[/INST]' }}\" >$T/m/chat_template.jinja; "
		"kvshare-run -m $T/m --chat -p '' --device host",
		1, "nothing to answer"},
	{"a system message without a conversation", "kvshare-run -m $T/m --system y -p x", 2, "--chat"},
	{"a text too short to evaluate", "printf a | kvshare-run eval -m $T/m --text - --device host", 1, "at least 2"},
	{"a text that is not there", "kvshare-run eval -m $T/m --text $T/nothing", 1, "nothing"},
	{"a schedule that is none", "KVS_SIMT_SCHEDULE=sideways kvshare-run -m $T/m -p x --device host", 1, "sideways"},
};

static void check_bad_input(const struct bad_input *input)
{
	char command[2048];
	struct process process;

	snprintf(command, sizeof(command),
		"T=$(mktemp -d); trap 'rm -rf $T' EXIT; cp -r " MODEL " $T/m; chmod -R u+w $T/m; %s", input->command);
	process = run_shell(command, 120);
	if (process.status != input->status)
		fail_msg("%s: exit status %d, not %d: %s", input->what, process.status, input->status, process.err);
	if (!strstr(process.err, input->said))
		fail_msg("%s: \"%s\" is not in: %s", input->what, input->said, process.err);
	if (strstr(input->said, "not numbers") && *process.out)
		fail_msg("%s: output all the same: %s", input->what, process.out);
	if (process.status == 1 && !strstr(process.err, "kvshare-run: "))
		fail_msg("%s: no line of kvshare-run's own: %s", input->what, process.err);
	process_free(&process);
}

static void every_bad_input_gets_a_clear_error(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(inputs) / sizeof(*inputs); i++)
		check_bad_input(&inputs[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_bad_input_gets_a_clear_error)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
