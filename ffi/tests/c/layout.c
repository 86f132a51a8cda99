/* The numbers of NT's structures: asserted as section 1.4 of the specification has them, and printed for Rust to compare. */
#include <npfs.h>
#include <stdio.h>

#ifdef __cplusplus
#define ASSERT(condition) static_assert(condition, #condition)
#else
#define ASSERT(condition) _Static_assert(condition, #condition)
#endif

#define SIZE(type, size) ASSERT(sizeof(npfs_##type) == size);
#define AT(type, field, offset) ASSERT(offsetof(npfs_##type, field) == offset);
#include "layout.h"
#undef SIZE
#undef AT

ASSERT(sizeof(npfs_io_status_block) == 2 * sizeof(void *));
ASSERT(offsetof(npfs_io_status_block, information) == sizeof(void *));

int main(void) {
#define SIZE(type, size) printf("npfs_" #type " %zu\n", sizeof(npfs_##type));
#define AT(type, field, offset) printf("npfs_" #type "." #field " %zu\n", offsetof(npfs_##type, field));
#include "layout.h"
    printf("npfs_io_status_block %zu\n", sizeof(npfs_io_status_block));
    printf("npfs_object_attributes %zu\n", sizeof(npfs_object_attributes));
    printf("npfs_port_packet %zu\n", sizeof(npfs_port_packet));
    printf("npfs_broker_options %zu\n", sizeof(npfs_broker_options));
    printf("npfs_identity %zu\n", sizeof(npfs_identity));
    return 0;
}
