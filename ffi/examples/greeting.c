// Two processes, a message each way: the server reads overlapped, through a completion port.
#include <npfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void check(npfs_status status, const char *what) {
    char name[64];
    if (status < NPFS_STATUS_BUFFER_OVERFLOW) return;
    npfs_status_name(status, name, sizeof name);
    fprintf(stderr, "%s: %s\n", what, name);
    exit(1);
}

static int client(void) {
    npfs_handle names, pipe;
    npfs_status status;
    uint32_t mode = NPFS_FILE_PIPE_MESSAGE_MODE, count;
    char reply[64];
    check(npfs_namespace_open(NULL, &names), "namespace"); // starts this user's broker if need be
    while ((status = npfs_connect(names, "greeter", 0, 0, NPFS_INFINITE, &pipe)) == NPFS_STATUS_OBJECT_NAME_NOT_FOUND)
        usleep(1000); // the server has not come so far
    check(status, "connect");
    check(npfs_set_handle_state(pipe, &mode, NULL), "message mode");
    check(npfs_transact(pipe, "world", 5, reply, sizeof reply, &count), "transact");
    printf("%.*s\n", (int)count, reply);
    check(npfs_close(pipe), "close");
    return 0;
}

static void server(void) {
    npfs_handle names, pipe, port;
    npfs_object_attributes at = {.length = sizeof at, .path = "\\??\\pipe\\greeter"};
    npfs_io_status_block iosb = {NPFS_STATUS_PENDING, 0}, flushed;
    npfs_port_packet packet;
    int64_t timeout = -500000; // 50 ms
    uint32_t count;
    char request[64], reply[80];
    check(npfs_namespace_open(NULL, &names), "namespace");
    check(npfs_create_named_pipe(names, &pipe, NPFS_GENERIC_READ | NPFS_GENERIC_WRITE | NPFS_SYNCHRONIZE, &at, NULL,
                                 NPFS_FILE_SHARE_READ | NPFS_FILE_SHARE_WRITE, NPFS_FILE_CREATE, 0,
                                 NPFS_FILE_PIPE_MESSAGE_TYPE, NPFS_FILE_PIPE_MESSAGE_MODE,
                                 NPFS_FILE_PIPE_QUEUE_OPERATION, 1, 4096, 4096, &timeout), "create");
    check(npfs_port_create(0, &port), "port");
    check(npfs_port_associate(port, pipe, 1), "associate");
    check(npfs_listen(pipe), "listen");
    check(npfs_read_file(pipe, 0, NULL, &iosb, &iosb, request, sizeof request), "read"); // mostly PENDING
    check(npfs_port_wait(port, &packet, 1, &count, NPFS_INFINITE), "wait"); // the packet's context is &iosb
    check(packet.status, "read");
    count = (uint32_t)snprintf(reply, sizeof reply, "hello, %.*s", (int)packet.information, request);
    check(npfs_write(pipe, reply, count, NULL), "write");
    check(npfs_flush_buffers_file(pipe, &flushed), "flush"); // until it has been read
    check(npfs_close(pipe), "close");
}

int main(void) {
    int status = 1;
    if (fork() == 0) return client();
    server();
    wait(&status);
    return status != 0;
}
