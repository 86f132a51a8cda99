// Echoes messages, one client after the other, with calls that wait: echo_server PIPE CLIENTS
#include <npfs.h>
#include <stdio.h>
#include <stdlib.h>

static npfs_status check(npfs_status status, const char *what) {
    char name[64];
    if (status <= NPFS_STATUS_BUFFER_OVERFLOW) return status;
    npfs_status_name(status, name, sizeof name);
    fprintf(stderr, "echo_server: %s: %s\n", what, name);
    exit(1);
}

int main(int argc, char **argv) {
    npfs_handle names, server;
    char path[300], message[256];
    npfs_object_attributes at = {.length = sizeof at, .path = path};
    int64_t timeout = -500000; // 50 ms
    int clients = argc > 2 ? atoi(argv[2]) : 1;
    snprintf(path, sizeof path, "\\??\\pipe\\%s", argc > 1 ? argv[1] : "echo");
    check(npfs_namespace_open(NULL, &names), "namespace");
    check(npfs_create_named_pipe(names, &server, NPFS_GENERIC_READ | NPFS_GENERIC_WRITE | NPFS_SYNCHRONIZE, &at, NULL,
                                 NPFS_FILE_SHARE_READ | NPFS_FILE_SHARE_WRITE, NPFS_FILE_OPEN_IF,
                                 NPFS_FILE_SYNCHRONOUS_IO_NONALERT, NPFS_FILE_PIPE_MESSAGE_TYPE,
                                 NPFS_FILE_PIPE_MESSAGE_MODE, NPFS_FILE_PIPE_QUEUE_OPERATION,
                                 NPFS_FILE_PIPE_UNLIMITED_INSTANCES, 4096, 4096, &timeout),
          "create");
    for (; clients > 0; clients--) {
        npfs_status status;
        uint32_t count;
        check(npfs_listen(server), "listen");
        // A message that is longer than the buffer comes in parts: each is echoed as a message.
        while ((status = npfs_read(server, message, sizeof message, &count)) <= NPFS_STATUS_BUFFER_OVERFLOW) {
            if (npfs_write(server, message, count, NULL) == NPFS_STATUS_PIPE_CLOSING) break;
        }
        if (status != NPFS_STATUS_PIPE_BROKEN) check(status, "read");
        check(npfs_disconnect(server), "disconnect");
    }
    check(npfs_close(server), "close");
    check(npfs_close(names), "close");
    return 0;
}
