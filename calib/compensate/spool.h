/*
 * calib/compensate/spool.h: arrays that grow with the text, in a file without a name. Private to calib/compensate/.
 */
#ifndef CALIB_SPOOL_H
#define CALIB_SPOOL_H

#include <stdbool.h>
#include <stddef.h>

struct calib_spool;
/* An array of records of `floats` floats each. In $TMPDIR; where it is not set, in /var/tmp or /tmp. -EIO (no file can be made), -ENOMEM. */
int calib_spool_open(size_t floats, struct calib_spool **out);
void calib_spool_close(struct calib_spool *spool);
/* `count` records from `first` on. -EIO (the disk is full: the message says where; a record was never written). */
int calib_spool_write(struct calib_spool *spool, size_t first, size_t count, const float *from);
int calib_spool_read(const struct calib_spool *spool, size_t first, size_t count, float *to);

#endif
