/*
 * driver/error.c: the message that a failed call of any kvshare library leaves for its caller.
 *
 * One buffer per thread, overwritten by the next failure on that thread, so that nobody has to free anything. A message
 * quotes names from untrusted files and ends up on a terminal: control bytes in it are made visible here, in one place.
 * A message that is too long loses its middle: the request is at its beginning, the reason at its end.
 */
#include "cu.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES 1024 /* of a message as it was written; made visible, it may take four times as much */
#define MOST_EXPANSION 4

static __thread char message[MOST_EXPANSION * TEXT_BYTES];

const char *kvs_error(void)
{
	return message;
}

/* ---- visible text ---- */

/* The length of the UTF-8 sequence that starts here; 0: it is none. */
static size_t sequence_bytes(const unsigned char *text)
{
	static const struct {
		unsigned char mask, lead, least_second, most_second;
	} forms[] = {
		/*
		 * by first byte, with the second byte's range where it excludes overlong forms, surrogates and past the
		 * end
		 */
		{0xff, 0xe0, 0xa0, 0xbf},
		{0xff, 0xed, 0x80, 0x9f},
		{0xff, 0xf0, 0x90, 0xbf},
		{0xff, 0xf4, 0x80, 0x8f},
		{0xf0, 0xe0, 0x80, 0xbf},
		{0xf8, 0xf0, 0x80, 0xbf},
		{0xe0, 0xc0, 0x80, 0xbf},
	};
	size_t bytes = *text < 0x80 ? 1 : *text < 0xe0 ? 2 : *text < 0xf0 ? 3 : 4;

	if (bytes == 1)
		return 1;
	if (*text < 0xc2 || *text > 0xf4)
		return 0;
	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		if ((*text & forms[i].mask) != forms[i].lead)
			continue;
		if (text[1] < forms[i].least_second || text[1] > forms[i].most_second)
			return 0;
		break;
	}
	for (size_t i = 2; i < bytes; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	}
	return bytes;
}

/* C0, DEL, C1, the line and paragraph separators, and what turns the direction of writing. */
static bool is_control(const unsigned char *text, size_t bytes)
{
	if (bytes == 1)
		return *text < 0x20 || *text == 0x7f;
	if (bytes == 2)
		return *text == 0xc2 && text[1] < 0xa0;
	return bytes == 3 && *text == 0xe2 &&
	       ((text[1] == 0x80 && ((text[2] >= 0xa8 && text[2] <= 0xae) || text[2] == 0x8e || text[2] == 0x8f)) ||
		       (text[1] == 0x81 && text[2] >= 0xa6 && text[2] <= 0xa9));
}

char *kvs_visible(const char *text, char *out, size_t bytes)
{
	static const char more[] = "...";
	const unsigned char *from = (const unsigned char *)text;
	size_t length = 0, fitting = 0; /* what stays if the rest does not fit */
	char shown[4 * 4 + 1];

	while (*from) {
		size_t sequence = sequence_bytes(from), taken = sequence ? sequence : 1, width = 0;

		if (sequence && !is_control(from, sequence)) {
			memcpy(shown, from, sequence);
			width = sequence;
		} else {
			for (size_t i = 0; i < taken; i++)
				width += (size_t)sprintf(shown + width, "\\x%02x", from[i]);
		}
		if (length + width >= bytes) {
			snprintf(out + fitting, bytes - fitting, "%s", more);
			return out;
		}
		memcpy(out + length, shown, width);
		length += width;
		if (length + sizeof(more) <= bytes)
			fitting = length;
		from += taken;
	}
	if (bytes)
		out[length] = '\0';
	return out;
}

/* ---- the message ---- */

static bool is_continuation(char byte)
{
	return ((unsigned char)byte & 0xc0) == 0x80;
}

/* Takes out the middle of a message that is too long, between characters. */
static void shorten(char *text)
{
	static const char gap[] = " ... ";
	size_t length = strlen(text), head = TEXT_BYTES / 2 - sizeof(gap), tail = length - TEXT_BYTES / 2;

	if (length < TEXT_BYTES)
		return;
	while (head && is_continuation(text[head]))
		head--;
	while (is_continuation(text[tail]))
		tail++;
	memcpy(text + head, gap, sizeof(gap) - 1);
	memmove(text + head + sizeof(gap) - 1, text + tail, length - tail + 1);
}

/* The arguments may point into the old message (a caller that adds context to it), so it is written aside first. */
static void message_set(const char *format, va_list args)
{
	char text[TEXT_BYTES], *all = text;
	va_list again;
	int length;

	va_copy(again, args);
	length = vsnprintf(text, sizeof(text), format, args);
	if (length >= (int)sizeof(text) && (all = malloc((size_t)length + 1)))
		vsnprintf(all, (size_t)length + 1, format, again);
	va_end(again);
	if (!all)
		all = text; /* without memory, only the beginning */
	shorten(all);
	kvs_visible(all, message, sizeof(message));
	if (all != text)
		free(all);
}

int kvs_fail(int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	message_set(format, args);
	va_end(args);
	return err;
}

static int errno_of(CUresult result)
{
	switch (result) {
	case CUDA_ERROR_OUT_OF_MEMORY:
		return -ENOMEM;
	case CUDA_ERROR_INVALID_VALUE:
		return -EINVAL;
	case CUDA_ERROR_NO_DEVICE:
	case CUDA_ERROR_INVALID_DEVICE:
		return -ENODEV;
	case CUDA_ERROR_NOT_SUPPORTED:
		return -ENOTSUP;
	default:
		return -EIO;
	}
}

int kvs_cu_fail(const kvs_cu *cu, CUresult result, const char *format, ...)
{
	const char *name = NULL, *text = NULL;
	va_list args;

	va_start(args, format);
	message_set(format, args);
	va_end(args);
	/* The driver leaves NULL behind for a code that it does not know. */
	cu->cuGetErrorName(result, &name);
	cu->cuGetErrorString(result, &text);
	return kvs_fail(errno_of(result), "%s: %s (%d): %s", message, name ? name : "unknown CUDA error", result,
		text ? text : "the driver has no text for it");
}
