/* The numbers of npfs_host.h's structures: asserted, and printed for Rust to compare. Both headers go together. */
#include <npfs_host.h>
#include <npfs.h>
#include <npfs_host.h>
#include <stdio.h>

#ifdef __cplusplus
#define ASSERT(condition) static_assert(condition, #condition)
#else
#define ASSERT(condition) _Static_assert(condition, #condition)
#endif

#define SIZE(type, size) ASSERT(sizeof(npfs_##type) == size);
#define AT(type, field, offset) ASSERT(offsetof(npfs_##type, field) == offset);
#include "layout_host.h"
#undef SIZE
#undef AT

ASSERT(sizeof(npfs_host_status) == 4 && NPFS_HOST_OK == 0 && NPFS_HOST_EMPTY < NPFS_HOST_OK);
ASSERT(sizeof(((npfs_host_end *)0)->grant) == NPFS_HOST_GRANT_SIZE);

int main(void) {
#define SIZE(type, size) printf("npfs_" #type " %zu\n", sizeof(npfs_##type));
#define AT(type, field, offset) printf("npfs_" #type "." #field " %zu\n", offsetof(npfs_##type, field));
#include "layout_host.h"
    return 0;
}
