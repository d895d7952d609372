/*
 * tests/fuzz/chat_fuzz.c: any bytes as a chat template. One that is read prints the user's text.
 */
#include "../../model/model.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = NULL;
	size_t bytes;
	kvs_chat *chat;

	if (kvs_chat_parse((const char *)data, size, "fuzz", "<s>", &chat))
		return 0;
	if (kvs_chat_render(chat, NULL, "user's text", 11, 0, &text, &bytes) || strlen(text) != bytes ||
		!strstr(text, "user's text"))
		abort();
	free(text);
	text = NULL;
	if (!kvs_chat_render(chat, "system's text", "user's text", 11, 0, &text, &bytes) &&
		!strstr(text, "system's text"))
		abort();
	free(text);
	kvs_chat_free(chat);
	return 0;
}
