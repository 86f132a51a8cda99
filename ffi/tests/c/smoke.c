/* What the other programs do not touch: events, cancel by address, completion routines, ports with threads, tokens, listings,
 * security, names, the descriptor. */
#include <npfs.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(call, status) expect(call, status, #call, __LINE__)
#define NEEDED(call) EXPECT(call, NPFS_STATUS_SUCCESS)
#define TRUE_(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

static void expect(npfs_status status, npfs_status wanted, const char *what, int line) {
    char is[64], should[64];
    if (status == wanted) return;
    npfs_status_name(status, is, sizeof is);
    npfs_status_name(wanted, should, sizeof should);
    fprintf(stderr, "line %d: %s: %s, not %s\n", line, what, is, should);
    exit(1);
}

static npfs_handle names;

static void pair_of(const char *name, uint32_t options, npfs_handle *server, npfs_handle *client) {
    char path[64];
    int64_t timeout = -500000;
    npfs_object_attributes at;
    snprintf(path, sizeof path, "\\??\\pipe\\%s", name);
    memset(&at, 0, sizeof at);
    at.length = sizeof at;
    at.path = path;
    NEEDED(npfs_create_named_pipe(names, server, NPFS_GENERIC_READ | NPFS_GENERIC_WRITE | NPFS_SYNCHRONIZE | NPFS_WRITE_DAC,
                                  &at, NULL, 3, NPFS_FILE_CREATE, options, 1, 1, 0, 8, 4096, 4096, &timeout));
    NEEDED(npfs_connect(names, name, 0, options, NPFS_INFINITE, client));
}

static void close_both(npfs_handle server, npfs_handle client) {
    NEEDED(npfs_close(client));
    NEEDED(npfs_close(server));
}

static npfs_io_status_block fresh(void) {
    npfs_io_status_block block;
    block.status = NPFS_STATUS_PENDING;
    block.information = 77;
    return block;
}

static void events_and_cancel(void) {
    npfs_handle server, client, event, other;
    npfs_io_status_block one = fresh(), two = fresh(), shared = fresh(), result = fresh();
    char a[8], b[8], c[8], d[8];
    uint8_t is_set;
    uint32_t index;
    npfs_handle both[2];
    pair_of("events", 0, &server, &client);
    NEEDED(npfs_event_create(&event));
    NEEDED(npfs_event_create(&other));
    NEEDED(npfs_event_set(event));
    EXPECT(npfs_read_file(server, event, NULL, NULL, &one, a, sizeof a), NPFS_STATUS_PENDING);
    NEEDED(npfs_event_is_set(event, &is_set));
    TRUE_(!is_set);
    EXPECT(npfs_read_file(server, 0, NULL, NULL, &two, b, sizeof b), NPFS_STATUS_PENDING);
    EXPECT(npfs_read_file(server, 0, NULL, NULL, &shared, c, sizeof c), NPFS_STATUS_PENDING);
    EXPECT(npfs_read_file(server, 0, NULL, NULL, &shared, d, sizeof d), NPFS_STATUS_PENDING);
    TRUE_(npfs_io_status(&one) == NPFS_STATUS_PENDING);
    /* By address: this one only, and each that shares it. */
    NEEDED(npfs_cancel_io_file_ex(server, &two, &result));
    TRUE_(two.status == NPFS_STATUS_CANCELLED && two.information == 0 && result.status == NPFS_STATUS_SUCCESS);
    EXPECT(npfs_cancel_io_file_ex(server, &two, &result), NPFS_STATUS_NOT_FOUND);
    TRUE_(result.status == NPFS_STATUS_NOT_FOUND);
    EXPECT(npfs_cancel_io_file_ex(client, &one, NULL), NPFS_STATUS_NOT_FOUND);
    NEEDED(npfs_cancel_io_file_ex(server, &shared, NULL));
    EXPECT(npfs_cancel_io_file_ex(server, &shared, NULL), NPFS_STATUS_NOT_FOUND);
    TRUE_(one.status == NPFS_STATUS_PENDING);
    NEEDED(npfs_write(client, "first", 5, NULL));
    /* When the write has returned, the read that it satisfied is complete. */
    TRUE_(npfs_io_status(&one) == NPFS_STATUS_SUCCESS && one.information == 5 && memcmp(a, "first", 5) == 0);
    both[0] = other;
    both[1] = event;
    NEEDED(npfs_wait(both, 2, NPFS_INFINITE, &index));
    TRUE_(index == 1);
    EXPECT(npfs_wait(both, 1, 1, &index), NPFS_STATUS_TIMEOUT);
    NEEDED(npfs_event_reset(event));
    NEEDED(npfs_wait(&server, 1, 1000, NULL)); /* signalled by the cancelled reads */
    /* What this thread has issued; and what is closed. */
    one = fresh();
    EXPECT(npfs_read_file(server, event, NULL, NULL, &one, a, sizeof a), NPFS_STATUS_PENDING);
    NEEDED(npfs_cancel_io_file(server, NULL));
    TRUE_(one.status == NPFS_STATUS_CANCELLED);
    one = fresh();
    EXPECT(npfs_read_file(server, event, NULL, NULL, &one, a, sizeof a), NPFS_STATUS_PENDING);
    close_both(server, client);
    TRUE_(one.status == NPFS_STATUS_PIPE_BROKEN);
    EXPECT(npfs_read_file(server, event, NULL, NULL, &one, a, sizeof a), NPFS_STATUS_INVALID_HANDLE);
    NEEDED(npfs_close(event));
    NEEDED(npfs_close(other));
    EXPECT(npfs_close(other), NPFS_STATUS_INVALID_HANDLE);
}

typedef struct told {
    int count;
    npfs_status status;
    uintptr_t information;
    npfs_status waited;
    npfs_handle done;
} told;

static void routine(void *context, npfs_io_status_block *iosb, uint32_t reserved) {
    told *it = (told *)context;
    it->count += 1 + (int)reserved;
    it->status = iosb->status;
    it->information = iosb->information;
    it->waited = npfs_wait(&it->done, 1, 1, NULL);
    npfs_event_set(it->done);
}

static void completion_routines(void) {
    npfs_handle server, client;
    npfs_io_status_block block = fresh();
    char buffer[8];
    told it;
    pair_of("routines", 0, &server, &client);
    memset(&it, 0, sizeof it);
    NEEDED(npfs_event_create(&it.done));
    EXPECT(npfs_read_file(server, 0, routine, &it, &block, buffer, sizeof buffer), NPFS_STATUS_PENDING);
    NEEDED(npfs_write(client, "told", 4, NULL));
    NEEDED(npfs_wait(&it.done, 1, NPFS_INFINITE, NULL));
    TRUE_(it.count == 1 && it.status == NPFS_STATUS_SUCCESS && it.information == 4);
    TRUE_(it.waited == NPFS_STATUS_POSSIBLE_DEADLOCK);
    /* On a thread that may wait; also for what is done at once. */
    NEEDED(npfs_set_callbacks_may_wait(server, 1));
    NEEDED(npfs_event_reset(it.done));
    NEEDED(npfs_write(client, "again", 5, NULL));
    NEEDED(npfs_read_file(server, 0, routine, &it, &block, buffer, sizeof buffer));
    NEEDED(npfs_wait(&it.done, 1, NPFS_INFINITE, NULL));
    TRUE_(it.count == 2 && it.information == 5 && it.waited == NPFS_STATUS_TIMEOUT);
    close_both(server, client);
    NEEDED(npfs_close(it.done));
}

static void *takes(void *port) {
    npfs_port_packet packet;
    uint32_t count;
    uintptr_t sum = 0;
    do {
        NEEDED(npfs_port_wait(*(npfs_handle *)port, &packet, 1, &count, NPFS_INFINITE));
        sum += packet.information;
    } while (packet.key != 0);
    return (void *)sum;
}

static void ports(void) {
    npfs_handle server, client, port;
    npfs_io_status_block blocks[8];
    npfs_port_packet packets[4];
    char buffer[8];
    uint32_t count;
    pthread_t threads[2];
    uintptr_t sum = 0;
    int descriptor;
    struct pollfd readable;
    pair_of("ports", 0, &server, &client);
    NEEDED(npfs_port_create(2, &port));
    NEEDED(npfs_port_associate(port, server, 9));
    EXPECT(npfs_port_associate(port, server, 9), NPFS_STATUS_INVALID_PARAMETER);
    EXPECT(npfs_port_wait(port, packets, 4, &count, 0), NPFS_STATUS_TIMEOUT);
    NEEDED(npfs_notice_descriptor(&descriptor));
    NEEDED(npfs_notice_take());
    for (int at = 0; at < 3; at++) {
        blocks[at] = fresh();
        EXPECT(npfs_read_file(server, 0, NULL, &blocks[at], &blocks[at], buffer, sizeof buffer), NPFS_STATUS_PENDING);
    }
    for (int at = 0; at < 3; at++) NEEDED(npfs_write(client, "12345", (uint32_t)at, NULL));
    readable.fd = descriptor;
    readable.events = POLLIN;
    TRUE_(poll(&readable, 1, 10000) == 1);
    NEEDED(npfs_notice_take());
    NEEDED(npfs_port_wait(port, packets, 4, &count, 0));
    TRUE_(count == 3);
    for (uint32_t at = 0; at < count; at++)
        TRUE_(packets[at].key == 9 && packets[at].context == &blocks[at] && packets[at].information == at);
    for (int at = 0; at < 2; at++) TRUE_(pthread_create(&threads[at], NULL, takes, &port) == 0);
    for (uintptr_t at = 1; at <= 10; at++) NEEDED(npfs_port_post(port, 1, NULL, NPFS_STATUS_SUCCESS, at));
    for (int at = 0; at < 2; at++) NEEDED(npfs_port_post(port, 0, NULL, NPFS_STATUS_SUCCESS, 0));
    for (int at = 0; at < 2; at++) {
        void *part;
        TRUE_(pthread_join(threads[at], &part) == 0);
        sum += (uintptr_t)part;
    }
    TRUE_(sum == 55);
    close_both(server, client);
    NEEDED(npfs_close(port));
}

typedef struct blocked {
    npfs_handle file, thread;
    npfs_handle ready;
    npfs_io_status_block block;
    npfs_status status;
} blocked;

static void *reads(void *argument) {
    blocked *it = (blocked *)argument;
    static char buffer[8];
    NEEDED(npfs_open_current_thread(&it->thread));
    NEEDED(npfs_event_set(it->ready));
    it->status = npfs_read_file(it->file, 0, NULL, NULL, &it->block, buffer, sizeof buffer);
    return NULL;
}

static void calls_that_wait(void) {
    npfs_handle server, client;
    npfs_io_status_block unused = fresh();
    blocked it;
    pthread_t thread;
    pair_of("waits", NPFS_FILE_SYNCHRONOUS_IO_NONALERT, &server, &client);
    for (int way = 0; way < 2; way++) {
        npfs_status status;
        memset(&it, 0, sizeof it);
        it.file = server;
        it.block = fresh();
        NEEDED(npfs_event_create(&it.ready));
        TRUE_(pthread_create(&thread, NULL, reads, &it) == 0);
        NEEDED(npfs_wait(&it.ready, 1, NPFS_INFINITE, NULL));
        do { /* until it blocks */
            EXPECT(npfs_cancel_synchronous_io_file(it.thread, &unused, NULL), NPFS_STATUS_NOT_FOUND);
            status = way ? npfs_cancel_io_file_ex(server, &it.block, NULL)
                         : npfs_cancel_synchronous_io_file(it.thread, way ? NULL : &it.block, NULL);
        } while (status == NPFS_STATUS_NOT_FOUND);
        NEEDED(status);
        TRUE_(pthread_join(thread, NULL) == 0);
        TRUE_(it.status == NPFS_STATUS_CANCELLED);
        TRUE_(it.block.status == NPFS_STATUS_PENDING && it.block.information == 77);
        NEEDED(npfs_close(it.thread));
        NEEDED(npfs_close(it.ready));
    }
    close_both(server, client);
}

static void names_and_lists(void) {
    npfs_handle server, client, again, root, copy, others[2];
    npfs_object_attributes at;
    int64_t timeout = -500000;
    int side;
    npfs_io_status_block block;
    /* As a program would, aligned for what comes. */
    union {
        npfs_file_directory_information entry;
        npfs_file_pipe_local_information local;
        char bytes[1024];
    } info;
    static const uint16_t pattern[] = {'L', 'I', '*'};
    static const uint16_t path[] = {'\\', '?', '?', '\\', 'p', 'i', 'p', 'e', '\\', 'l', 'i', 's', 't'};
    uint16_t name[64];
    char token[NPFS_TOKEN_SIZE];
    uint32_t needed, read_mode, completion_mode, instances, copied, available, left, abi;
    uint64_t hash;
    unsigned char descriptor[512];
    npfs_identity identity;
    pair_of("list", 0, &server, &client);
    memset(&at, 0, sizeof at);
    at.length = sizeof at;
    at.path = "\\Device\\NamedPipe\\";
    NEEDED(npfs_open_file(names, &root, NPFS_GENERIC_READ, &at, &block, 0, 0));
    TRUE_(block.information == NPFS_FILE_OPENED);
    NEEDED(npfs_query_directory_file(root, &block, &info, sizeof info, NPFS_FILE_DIRECTORY_INFORMATION_CLASS, 1, pattern,
                                     sizeof pattern, 0));
    TRUE_(info.entry.file_name_length == 8 && info.entry.file_name[0] == 'l' && info.entry.end_of_file == 1);
    TRUE_(info.entry.allocation_size == 8);
    EXPECT(npfs_query_directory_file(root, &block, &info, sizeof info, NPFS_FILE_DIRECTORY_INFORMATION_CLASS, 1, NULL, 0, 0),
           NPFS_STATUS_NO_MORE_FILES);
    /* UTF-16, and relative to the root; the instance is busy. */
    memset(&at, 0, sizeof at);
    at.length = sizeof at;
    at.name = path;
    at.name_length = sizeof path;
    EXPECT(npfs_open_file(names, &again, NPFS_GENERIC_READ, &at, NULL, 0, 0), NPFS_STATUS_PIPE_NOT_AVAILABLE);
    at.root_directory = root;
    at.name = path + 9;
    at.name_length = 8;
    EXPECT(npfs_open_file(names, &again, NPFS_GENERIC_READ, &at, NULL, 0, 0), NPFS_STATUS_PIPE_NOT_AVAILABLE);
    EXPECT(npfs_wait_pipe(names, "list", 1), NPFS_STATUS_IO_TIMEOUT);
    EXPECT(npfs_connect(names, "nothing", 0, 0, 1, &again), NPFS_STATUS_OBJECT_NAME_NOT_FOUND);

    NEEDED(npfs_query_information_file(server, &block, &info, sizeof info, NPFS_FILE_PIPE_LOCAL_INFORMATION_CLASS));
    TRUE_(block.information == sizeof info.local && info.local.named_pipe_end == NPFS_FILE_PIPE_SERVER_END);
    TRUE_(info.local.named_pipe_state == NPFS_FILE_PIPE_CONNECTED_STATE && info.local.inbound_quota == 4096);
    NEEDED(npfs_query_volume_information_file(server, &block, &info, sizeof info, NPFS_FILE_FS_DEVICE_INFORMATION_CLASS));
    NEEDED(npfs_get_handle_state(client, &read_mode, &completion_mode, &instances));
    TRUE_(read_mode == NPFS_FILE_PIPE_BYTE_STREAM_MODE && completion_mode == NPFS_FILE_PIPE_QUEUE_OPERATION);
    TRUE_(instances == 1);
    EXPECT(npfs_query_object_name(server, name, 0, &needed), NPFS_STATUS_BUFFER_TOO_SMALL);
    NEEDED(npfs_query_object_name(server, name, sizeof name, &needed));
    TRUE_(needed == 2 * strlen("\\Device\\NamedPipe\\list"));
    NEEDED(npfs_query_security_object(server, NPFS_OWNER_SECURITY_INFORMATION | NPFS_DACL_SECURITY_INFORMATION, descriptor,
                                      sizeof descriptor, &needed));
    NEEDED(npfs_set_security_object(server, NPFS_DACL_SECURITY_INFORMATION, descriptor, needed));

    NEEDED(npfs_write(client, "look", 4, NULL));
    NEEDED(npfs_peek(server, token, 3, &copied, &available, &left));
    TRUE_(copied == 3 && available == 4 && left == 1);
    NEEDED(npfs_fs_control_file(server, 0, NULL, NULL, &block, NPFS_FSCTL_PIPE_IMPERSONATE, NULL, 0, NULL, 0));
    NEEDED(npfs_query_impersonation(&identity));
    TRUE_(identity.impersonates == 1 && identity.level == NPFS_SECURITY_IMPERSONATION && identity.process != 0);
    NEEDED(npfs_revert_to_self());
    NEEDED(npfs_query_impersonation(&identity));
    TRUE_(identity.impersonates == 0);

    /* A duplicate, and an end that goes by a token, here to the same process. */
    NEEDED(npfs_duplicate_object(client, NPFS_FILE_READ_DATA, 0, &copy));
    EXPECT(npfs_write(copy, "x", 1, NULL), NPFS_STATUS_ACCESS_DENIED);
    NEEDED(npfs_duplicate_object(copy, 0, NPFS_DUPLICATE_SAME_ACCESS | NPFS_DUPLICATE_CLOSE_SOURCE, &again));
    EXPECT(npfs_close(copy), NPFS_STATUS_INVALID_HANDLE);
    NEEDED(npfs_close(again));
    EXPECT(npfs_give(client, 0, NPFS_DUPLICATE_SAME_ACCESS, token, 32), NPFS_STATUS_BUFFER_TOO_SMALL);
    NEEDED(npfs_give(client, 0, NPFS_DUPLICATE_SAME_ACCESS, token, sizeof token));
    NEEDED(npfs_take(names, token, &again));
    EXPECT(npfs_take(names, token, &copy), NPFS_STATUS_INVALID_HANDLE);
    /* For somebody else, who has to be that user. */
    EXPECT(npfs_give_to_user(client, 65534, 0, NPFS_DUPLICATE_SAME_ACCESS, token, 32), NPFS_STATUS_BUFFER_TOO_SMALL);
    EXPECT(npfs_give_to_user(root, 65534, 0, NPFS_DUPLICATE_SAME_ACCESS, token, sizeof token), NPFS_STATUS_NOT_SUPPORTED);
    NEEDED(npfs_write(again, "taken", 5, NULL));
    NEEDED(npfs_close(again));
    /* One that is not alone in its memory cannot go there, and one that was kept apart always can, whoever wanted it. */
    pair_of("beside", 0, &others[0], &others[1]);
    EXPECT(npfs_give_to_user(client, 65534, 0, NPFS_DUPLICATE_SAME_ACCESS, token, sizeof token), NPFS_STATUS_SHARING_VIOLATION);
    memset(&at, 0, sizeof at);
    at.length = sizeof at;
    at.path = "\\??\\pipe\\apart";
    at.attributes = 1;
    EXPECT(npfs_open_file(names, &again, NPFS_GENERIC_READ, &at, NULL, 0, 0), NPFS_STATUS_INVALID_PARAMETER);
    for (side = 0; side < 2; side++) {
        at.attributes = side == 0 ? NPFS_OBJ_APART : 0x40;
        NEEDED(npfs_create_named_pipe(names, &copy, NPFS_GENERIC_READ | NPFS_GENERIC_WRITE | NPFS_SYNCHRONIZE, &at, NULL, 3,
                                      NPFS_FILE_CREATE, 0, 1, 1, 0, 1, 4096, 4096, &timeout));
        at.attributes = side == 1 ? NPFS_OBJ_APART | 0x40 : 0;
        NEEDED(npfs_open_file(names, &again, NPFS_GENERIC_READ, &at, NULL, 0, 0));
        NEEDED(npfs_give_to_user(again, 65534, 0, NPFS_DUPLICATE_SAME_ACCESS, token, sizeof token));
        NEEDED(npfs_give_to_user(copy, 65534, 0, NPFS_DUPLICATE_SAME_ACCESS, token, sizeof token));
        close_both(copy, again);
        /* The tokens keep the ends open; the next is another pipe. */
        at.path = "\\??\\pipe\\apart too";
    }
    close_both(others[0], others[1]);
    NEEDED(npfs_close(root));
    close_both(server, client);
    NEEDED(npfs_abi(&abi, &hash));
    TRUE_(abi != 0 && hash != 0 && npfs_version() == NPFS_VERSION);
}

static void a_broker_of_ones_own(void) {
    npfs_handle broker, own, pipe;
    NEEDED(npfs_broker_start(NULL, &broker));
    NEEDED(npfs_broker_connect(broker, &own));
    EXPECT(npfs_connect(own, "list", 0, 0, 0, &pipe), NPFS_STATUS_OBJECT_NAME_NOT_FOUND);
    EXPECT(npfs_close(own), NPFS_STATUS_SUCCESS);
    NEEDED(npfs_close(broker));
    EXPECT(npfs_broker_connect(broker, &own), NPFS_STATUS_INVALID_HANDLE);
    EXPECT(npfs_namespace_open("/nowhere/at/all", &own), NPFS_STATUS_NO_SUCH_DEVICE);
}

int main(void) {
    NEEDED(npfs_namespace_open(NULL, &names));
    events_and_cancel();
    completion_routines();
    ports();
    calls_that_wait();
    names_and_lists();
    a_broker_of_ones_own();
    EXPECT(npfs_event_set(names), NPFS_STATUS_OBJECT_TYPE_MISMATCH);
    EXPECT(npfs_event_create(NULL), NPFS_STATUS_ACCESS_VIOLATION);
    NEEDED(npfs_close(names));
    puts("smoke: all as it should be");
    return 0;
}
