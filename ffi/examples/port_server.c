// Echoes messages to many clients at once, from one thread: every call is overlapped, and one completion port tells of all.
// port_server PIPE CLIENTS
#include <npfs.h>
#include <stdio.h>
#include <stdlib.h>

enum { INSTANCES = 4 };

typedef struct instance {
    npfs_handle pipe;
    enum { LISTENS, READS, WRITES } does;
    npfs_io_status_block iosb; // one at a time: an instance has one call under way
    char message[256];
} instance;

static void check(npfs_status status, const char *what) {
    char name[64];
    if (status <= NPFS_STATUS_BUFFER_OVERFLOW) return;
    npfs_status_name(status, name, sizeof name);
    fprintf(stderr, "port_server: %s: %s\n", what, name);
    exit(1);
}

static npfs_status begin_listen(instance *one) {
    one->does = LISTENS;
    return npfs_fs_control_file(one->pipe, 0, NULL, one, &one->iosb, NPFS_FSCTL_PIPE_LISTEN, NULL, 0, NULL, 0);
}

static npfs_status begin_read(instance *one) {
    one->does = READS;
    return npfs_read_file(one->pipe, 0, NULL, one, &one->iosb, one->message, sizeof one->message);
}

static npfs_status begin_write(instance *one, uint32_t count) {
    one->does = WRITES;
    return npfs_write_file(one->pipe, 0, NULL, one, &one->iosb, one->message, count);
}

// Begins what comes next. Whatever does not fail at once sends a packet, also if it is done already. Counts clients that left.
static int go_on(instance *one, npfs_status status, size_t information) {
    int left = 0;
    for (;;) {
        if (status == NPFS_STATUS_PIPE_CONNECTED) { // a client was quicker than the listen
            status = begin_read(one);
        } else if (status > NPFS_STATUS_BUFFER_OVERFLOW) { // it has gone
            left++;
            check(npfs_disconnect(one->pipe), "disconnect");
            status = begin_listen(one);
        } else if (one->does == READS) {
            status = begin_write(one, (uint32_t)information);
        } else {
            status = begin_read(one);
        }
        if (status <= NPFS_STATUS_BUFFER_OVERFLOW) return left;
    }
}

int main(int argc, char **argv) {
    static instance instances[INSTANCES];
    npfs_handle names, port;
    npfs_port_packet packets[8];
    char path[300];
    npfs_object_attributes at = {.length = sizeof at, .path = path};
    int64_t timeout = -500000; // 50 ms
    int clients = argc > 2 ? atoi(argv[2]) : 1;
    snprintf(path, sizeof path, "\\??\\pipe\\%s", argc > 1 ? argv[1] : "echo");
    check(npfs_namespace_open(NULL, &names), "namespace");
    check(npfs_port_create(0, &port), "port");
    for (instance *one = instances; one < instances + INSTANCES; one++) {
        check(npfs_create_named_pipe(names, &one->pipe, NPFS_GENERIC_READ | NPFS_GENERIC_WRITE | NPFS_SYNCHRONIZE, &at,
                                     NULL, NPFS_FILE_SHARE_READ | NPFS_FILE_SHARE_WRITE, NPFS_FILE_OPEN_IF, 0,
                                     NPFS_FILE_PIPE_MESSAGE_TYPE, NPFS_FILE_PIPE_MESSAGE_MODE,
                                     NPFS_FILE_PIPE_QUEUE_OPERATION, INSTANCES, 4096, 4096, &timeout),
              "create");
        check(npfs_port_associate(port, one->pipe, (uintptr_t)(one - instances)), "associate");
        npfs_status status = begin_listen(one);
        if (status == NPFS_STATUS_PIPE_CONNECTED) go_on(one, status, 0);
        else check(status, "listen");
    }
    while (clients > 0) {
        uint32_t count;
        check(npfs_port_wait(port, packets, 8, &count, NPFS_INFINITE), "wait");
        for (uint32_t at_packet = 0; at_packet < count; at_packet++) {
            npfs_port_packet *packet = &packets[at_packet];
            clients -= go_on((instance *)packet->context, packet->status, packet->information);
        }
    }
    // What pends on an instance has completed when its handle is closed: its memory is ours again.
    for (instance *one = instances; one < instances + INSTANCES; one++) check(npfs_close(one->pipe), "close");
    check(npfs_close(port), "close");
    check(npfs_close(names), "close");
    return 0;
}
