// Sends each argument as a message and prints what comes back: echo_client PIPE MESSAGE...
#include <npfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static npfs_status check(npfs_status status, const char *what) {
    char name[64];
    if (status <= NPFS_STATUS_BUFFER_OVERFLOW) return status;
    npfs_status_name(status, name, sizeof name);
    fprintf(stderr, "echo_client: %s: %s\n", what, name);
    exit(1);
}

int main(int argc, char **argv) {
    npfs_handle names, pipe;
    npfs_status status;
    uint32_t mode = NPFS_FILE_PIPE_MESSAGE_MODE, count;
    const char *name = argc > 1 ? argv[1] : "echo";
    char reply[256];
    check(npfs_namespace_open(NULL, &names), "namespace");
    // A pipe that is not there yet is not waited for by the call; one whose instances are all busy is.
    for (int tries = 0;; tries++) {
        status = npfs_connect(names, name, 0, NPFS_FILE_SYNCHRONOUS_IO_NONALERT, NPFS_INFINITE, &pipe);
        if (status != NPFS_STATUS_OBJECT_NAME_NOT_FOUND || tries == 10000) break;
        usleep(1000);
    }
    check(status, "connect");
    check(npfs_set_handle_state(pipe, &mode, NULL), "message mode");
    for (int at = 2; at < argc; at++) {
        check(npfs_transact(pipe, argv[at], (uint32_t)strlen(argv[at]), reply, sizeof reply, &count), "transact");
        printf("%.*s\n", (int)count, reply);
    }
    check(npfs_close(pipe), "close");
    check(npfs_close(names), "close");
    return 0;
}
