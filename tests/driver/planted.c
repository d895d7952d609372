/* A library placed where a wrong search for softcuda would find it; it leaves a mark when it is loaded. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((constructor)) static void leave_a_mark(void)
{
	const char *mark = getenv("KVS_TEST_MARK");
	int fd = mark ? open(mark, O_WRONLY | O_CREAT, 0600) : -1;

	if (fd >= 0)
		close(fd);
}
