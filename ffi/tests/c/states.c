/* The specification's state tables through npfs.h, from the vectors that the Rust test runs, too: states FILE */
#include <npfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEEDED(call) needed(call, __LINE__)

static npfs_handle names;

static void needed(npfs_status status, int line) {
    char name[64];
    if (status == NPFS_STATUS_SUCCESS) return;
    npfs_status_name(status, name, sizeof name);
    fprintf(stderr, "line %d: %s\n", line, name);
    exit(1);
}

static npfs_io_status_block iosb;
static char output[512];

static npfs_status control(npfs_handle file, uint32_t code, const char *input, size_t length) {
    return npfs_fs_control_file(file, 0, NULL, NULL, &iosb, code, input, (uint32_t)length, output, sizeof output);
}

static npfs_status query(npfs_handle file, uint32_t class_number) {
    return npfs_query_information_file(file, &iosb, output, sizeof output, class_number);
}

static npfs_status set_modes(npfs_handle file, uint32_t read, uint32_t completion) {
    npfs_file_pipe_information modes;
    modes.read_mode = read;
    modes.completion_mode = completion;
    return npfs_set_information_file(file, &iosb, &modes, sizeof modes, NPFS_FILE_PIPE_INFORMATION_CLASS);
}

static int is(const char *word, const char *other) { return strcmp(word, other) == 0; }

static npfs_status operate(npfs_handle end, const char *operation) {
    static char buffer[64], much[65];
    uint32_t count;
    if (is(operation, "read")) return npfs_read_file(end, 0, NULL, NULL, &iosb, buffer, 16);
    if (is(operation, "write")) return npfs_write_file(end, 0, NULL, NULL, &iosb, "y", 1);
    if (is(operation, "write-nothing")) return npfs_write_file(end, 0, NULL, NULL, &iosb, NULL, 0);
    if (is(operation, "write-much")) return npfs_write_file(end, 0, NULL, NULL, &iosb, much, sizeof much);
    if (is(operation, "flush")) return npfs_flush_buffers_file(end, &iosb);
    if (is(operation, "peek")) return control(end, NPFS_FSCTL_PIPE_PEEK, NULL, 0);
    if (is(operation, "transceive")) return control(end, NPFS_FSCTL_PIPE_TRANSCEIVE, "z", 1);
    if (is(operation, "listen")) return control(end, NPFS_FSCTL_PIPE_LISTEN, NULL, 0);
    if (is(operation, "disconnect")) return control(end, NPFS_FSCTL_PIPE_DISCONNECT, NULL, 0);
    if (is(operation, "impersonate")) return control(end, NPFS_FSCTL_PIPE_IMPERSONATE, NULL, 0);
    if (is(operation, "query-pipe")) return query(end, NPFS_FILE_PIPE_INFORMATION_CLASS);
    if (is(operation, "query-local")) return query(end, NPFS_FILE_PIPE_LOCAL_INFORMATION_CLASS);
    if (is(operation, "query-name")) return query(end, NPFS_FILE_NAME_INFORMATION_CLASS);
    if (is(operation, "query-standard")) return query(end, NPFS_FILE_STANDARD_INFORMATION_CLASS);
    if (is(operation, "query-remote")) return query(end, NPFS_FILE_PIPE_REMOTE_INFORMATION_CLASS);
    if (is(operation, "set-pipe")) return set_modes(end, 0, 0);
    if (is(operation, "client-id"))
        return control(end, NPFS_FSCTL_PIPE_GET_CONNECTION_ATTRIBUTE, "ClientProcessId", sizeof "ClientProcessId");
    if (is(operation, "server-id"))
        return control(end, NPFS_FSCTL_PIPE_GET_PIPE_ATTRIBUTE, "ServerProcessId", sizeof "ServerProcessId");
    if (is(operation, "query-security"))
        return npfs_query_security_object(end, NPFS_DACL_SECURITY_INFORMATION, output, sizeof output, &count);
    fprintf(stderr, "no such operation: %s\n", operation);
    exit(1);
}

/* What one vector answers, on a pipe of its own. */
static npfs_status answer(int number, const char *end_name, const char *state, const char *operation, uint32_t completion) {
    npfs_object_attributes at;
    npfs_handle server, client = 0, end, peer;
    int64_t timeout = -500000;
    char path[64], name[32];
    size_t length = strlen(operation);
    npfs_status status;
    snprintf(path, sizeof path, "\\??\\pipe\\state-%d", number);
    memset(&at, 0, sizeof at);
    at.length = sizeof at;
    at.path = path;
    NEEDED(npfs_create_named_pipe(names, &server, NPFS_GENERIC_READ | NPFS_GENERIC_WRITE | NPFS_SYNCHRONIZE, &at, NULL,
                                  NPFS_FILE_SHARE_READ | NPFS_FILE_SHARE_WRITE, NPFS_FILE_OPEN_IF, 0,
                                  NPFS_FILE_PIPE_MESSAGE_TYPE, NPFS_FILE_PIPE_MESSAGE_MODE,
                                  NPFS_FILE_PIPE_QUEUE_OPERATION, NPFS_FILE_PIPE_UNLIMITED_INSTANCES, 64, 64, &timeout));
    if (!is(state, "listening"))
        NEEDED(npfs_open_file(names, &client, NPFS_GENERIC_READ | NPFS_GENERIC_WRITE, &at, NULL, 0, 0));
    end = is(end_name, "server") ? server : client;
    peer = is(end_name, "server") ? client : server;
    NEEDED(set_modes(end, NPFS_FILE_PIPE_MESSAGE_MODE, completion));
    snprintf(name, sizeof name, "%s", operation);
    if (length && length < sizeof name && operation[length - 1] == '+') {
        name[length - 1] = 0;
        NEEDED(npfs_write(peer, "x", 1, NULL));
    }
    if (is(state, "closing")) {
        NEEDED(npfs_close(peer));
        peer = 0;
    }
    if (is(state, "disconnected")) NEEDED(npfs_disconnect(server));
    status = operate(end, name);
    NEEDED(npfs_close(end));
    if (peer) NEEDED(npfs_close(peer));
    return status;
}

int main(int argc, char **argv) {
    char line[256], end[16], state[16], operation[32], expected[2][40], name[64];
    int count = 0, wrong = 0;
    FILE *file = argc > 1 ? fopen(argv[1], "r") : NULL;
    if (!file) return 2;
    NEEDED(npfs_namespace_open(NULL, &names));
    while (fgets(line, sizeof line, file)) {
        if (line[0] == '#' || line[0] == '\n') continue;
        if (sscanf(line, "%15s %15s %31s %39s %39s", end, state, operation, expected[0], expected[1]) != 5) return 2;
        for (uint32_t completion = 0; completion < 2; completion++) {
            if (is(expected[completion], "-")) continue;
            npfs_status_name(answer(count++, end, state, operation, completion), name, sizeof name);
            if (!is(name + sizeof "STATUS_" - 1, expected[completion])) {
                printf("%s %s %s (never waits: %u): %s\n", end, state, operation, completion, name);
                wrong++;
            }
        }
    }
    fclose(file);
    NEEDED(npfs_close(names));
    printf("%d vectors, %d wrong\n", count, wrong);
    return wrong != 0;
}
