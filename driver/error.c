/*
 * driver/error.c: the message that a failed call of any kvshare library leaves for its caller.
 *
 * One buffer a thread, overwritten by the next failure on that thread, so that nothing is allocated on the way out of an
 * error and nobody has to free anything.
 */
#include "cu.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static __thread char message[1024];

const char *kvs_error(void)
{
	return message;
}

/* The arguments may point into the old message (a caller that adds context to it), so it is written aside first. */
static void message_set(const char *format, va_list args)
{
	char text[sizeof message];

	vsnprintf(text, sizeof text, format, args);
	memcpy(message, text, sizeof message);
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
	size_t length;

	va_start(args, format);
	message_set(format, args);
	va_end(args);
	/* The driver leaves NULL behind for a code that it does not know. */
	cu->cuGetErrorName(result, &name);
	cu->cuGetErrorString(result, &text);
	length = strlen(message);
	snprintf(message + length, sizeof message - length, ": %s (%d): %s", name ? name : "unknown CUDA error", result,
		text ? text : "the driver has no text for it");
	return errno_of(result);
}
