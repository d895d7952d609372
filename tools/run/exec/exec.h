/*
 * tools/run/exec/exec.h: what the files of `kvshare-run exec` share.
 */
#ifndef KVS_RUN_EXEC_H
#define KVS_RUN_EXEC_H

/*
 * The short form of a layout that is given in short form or as a JSON file, checked; the caller frees it. -EINVAL, -ENOENT,
 * -ENOMEM, -EIO.
 */
int exec_layout_text(const char *text, char **out);

#endif
