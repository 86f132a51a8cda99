/*
 * A host of its own, with npfs_host.h alone: a server process with one thread, which decides who has which end, and two
 * programs whose bytes do not pass through it. Each scenario is a pair of programs and a server that serves them until both
 * have ended.
 */
#define _GNU_SOURCE
#include <npfs_host.h>

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NEVER UINT64_MAX
#define MOST 256

static const char *scenario = "?";

#define CHECK(condition)                                                                              \
    do {                                                                                              \
        if (!(condition)) {                                                                           \
            fprintf(stderr, "%s: %s:%d: %s\n", scenario, __FILE__, __LINE__, #condition);             \
            _exit(1);                                                                                 \
        }                                                                                             \
    } while (0)

/* ---- what programs ask the server for ----------------------------------------------------------------------------- */

enum { ATTACH, READ, WRITE, SWEEP, STATS };

struct request {
    uint32_t what, side, argument, len;
    char data[MOST];
};

struct answer {
    npfs_host_status status;
    uint32_t count;
    npfs_host_end end;
    npfs_srv_counts stats;
    char data[MOST];
};

static void send_answer(int to, const struct answer *answer, int fd) {
    struct iovec part = {(void *)answer, sizeof *answer};
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct msghdr message = {0};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (fd >= 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(head), &fd, sizeof fd);
    }
    /* Who has gone needs no answer. */
    (void)!sendmsg(to, &message, MSG_NOSIGNAL);
}

static int receive_answer(int from, struct answer *answer) {
    struct iovec part = {answer, sizeof *answer};
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr aligned;
    } control;
    struct msghdr message = {0};
    int fd = -1;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = &control;
    message.msg_controllen = sizeof control;
    CHECK(recvmsg(from, &message, MSG_CMSG_CLOEXEC) == (ssize_t)sizeof *answer);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head != NULL)
        memcpy(&fd, CMSG_DATA(head), sizeof fd);
    return fd;
}

static int ask(int server, const struct request *request, struct answer *answer) {
    CHECK(send(server, request, sizeof *request, 0) == (ssize_t)sizeof *request);
    return receive_answer(server, answer);
}

/* ---- the server ---------------------------------------------------------------------------------------------------- */

struct waiting {
    struct request request;
    int program;
    int in_use;
    npfs_srv_ticket *ticket;
};

struct server {
    npfs_srv_conn *conn;
    int sockets[2];
    pid_t pids[2];
    int ended[2]; /* as of waitpid(2) */
    struct waiting waiting[8];
};

/* What the server does for a program that takes the slow path: at once, or when the doorbell says so. */
static void slow(struct server *server, struct waiting *one) {
    struct request *request = &one->request;
    struct answer answer;
    memset(&answer, 0, sizeof answer);
    if (one->ticket == NULL && request->what == READ)
        answer.status = npfs_srv_try_read(server->conn, request->side, answer.data, request->len, &answer.count);
    else if (one->ticket == NULL)
        answer.status =
            npfs_srv_try_write(server->conn, request->side, request->data, request->len, 0, &answer.count);
    else
        answer.status = npfs_srv_ticket_take(one->ticket, answer.data, sizeof answer.data, &answer.count);
    if (one->ticket != NULL && answer.status == NPFS_HOST_PENDING)
        return;
    if (answer.status == NPFS_HOST_WOULD_BLOCK) {
        uint32_t kind = request->what == READ ? NPFS_HOST_READ : NPFS_HOST_WRITE;
        const void *data = request->what == READ ? NULL : request->data;
        npfs_host_status status = npfs_srv_ticket_add(server->conn, request->side, kind, data, request->len,
                                                      (uint64_t)(one - server->waiting), &one->ticket);
        CHECK(status == NPFS_HOST_PENDING || status == NPFS_HOST_OK);
        if (status == NPFS_HOST_OK)
            slow(server, one);
        return;
    }
    send_answer(server->sockets[one->program], &answer, -1);
    /* BUSY is tried again, and answered again, when the doorbell says so. */
    one->in_use = answer.status == NPFS_HOST_BUSY;
}

static void news(void *context, uint64_t cookie, uint32_t events) {
    struct server *server = context;
    for (size_t i = 0; i < 8; i++) {
        struct waiting *one = &server->waiting[i];
        int ready = (events & NPFS_SRV_TICKET) != 0 ? cookie == i && one->ticket != NULL
                                                    : (events & NPFS_SRV_ROLE_FREE) != 0 && one->ticket == NULL;
        if (one->in_use && ready)
            slow(server, one);
    }
}

static void serve_one(struct server *server, int program, const struct request *request) {
    struct answer answer;
    int fd = -1;
    memset(&answer, 0, sizeof answer);
    switch (request->what) {
    case ATTACH:
        answer.status = npfs_srv_conn_export(server->conn, request->side, (uint32_t)server->pids[program], 0,
                                             &answer.end, &fd);
        break;
    case READ:
    case WRITE:
        for (size_t i = 0; i < 8; i++) {
            struct waiting *one = &server->waiting[i];
            if (!one->in_use) {
                one->request = *request;
                one->program = program;
                one->in_use = 1;
                one->ticket = NULL;
                slow(server, one);
                return;
            }
        }
        answer.status = NPFS_HOST_NO_MEMORY;
        break;
    case STATS:
        answer.status = npfs_srv_stats(server->conn, &answer.stats);
        break;
    default:
        answer.status = NPFS_HOST_INVALID;
    }
    send_answer(server->sockets[program], &answer, fd);
    if (fd >= 0)
        close(fd);
}

static void serve(struct server *server, int quota) {
    npfs_srv *srv;
    npfs_srv_slab *slab;
    npfs_srv_conn_options options;
    int doorbell;
    CHECK(npfs_srv_init(NULL, &srv, &doorbell) == NPFS_HOST_OK);
    CHECK(npfs_srv_slab_get(srv, (uint32_t)server->pids[0], (uint32_t)server->pids[1], &slab) == NPFS_HOST_OK);
    memset(&options, 0, sizeof options);
    options.server_pid = (uint32_t)server->pids[0];
    options.flags = NPFS_SRV_MESSAGES | NPFS_SRV_HOLDERS_CLOSE;
    for (int end = 0; end < 2; end++) {
        options.quota[end] = (uint32_t)quota;
        options.access[end] = NPFS_SRV_READ_DATA | NPFS_SRV_WRITE_DATA;
        options.modes[end] = NPFS_HOST_MODE_MESSAGE;
        options.cookie[end] = 1000 + (uint64_t)end;
    }
    CHECK(npfs_srv_conn_create(slab, &options, &server->conn) == NPFS_HOST_OK);
    for (int alive = 2; alive != 0;) {
        struct pollfd polled[3] = {
            {server->sockets[0], POLLIN, 0}, {server->sockets[1], POLLIN, 0}, {doorbell, POLLIN, 0}};
        CHECK(poll(polled, 3, 30000) > 0);
        if (polled[2].revents != 0)
            CHECK(npfs_srv_doorbell(srv, news, server) == NPFS_HOST_OK);
        for (int program = 0; program < 2; program++) {
            struct request request;
            if (polled[program].revents == 0)
                continue;
            if (recv(server->sockets[program], &request, sizeof request, 0) != (ssize_t)sizeof request) {
                /* It has ended, somehow; a real server is told of that, and does not wait. */
                CHECK(waitpid(server->pids[program], &server->ended[program], 0) == server->pids[program]);
                CHECK(npfs_srv_sweep(srv, (uint32_t)server->pids[program], 0) == NPFS_HOST_OK);
                close(server->sockets[program]);
                server->sockets[program] = -1;
                alive--;
            } else if (request.what == SWEEP) {
                struct answer answer;
                memset(&answer, 0, sizeof answer);
                answer.status = npfs_srv_sweep(srv, (uint32_t)server->pids[program], request.argument);
                send_answer(server->sockets[program], &answer, -1);
            } else {
                serve_one(server, program, &request);
            }
        }
    }
    CHECK(npfs_srv_conn_destroy(server->conn) == NPFS_HOST_OK);
    CHECK(npfs_srv_slab_put(slab) == NPFS_HOST_OK);
    CHECK(npfs_srv_end(srv) == NPFS_HOST_OK);
}

/* ---- a program ----------------------------------------------------------------------------------------------------- */

/* Of all programs of a scenario. */
static struct {
    volatile int turn;
    volatile pid_t pids[2];
} *shared;

/* Where a copy stops until somebody ends it; 0: nowhere. */
static _Atomic uintptr_t stops_at;
static _Atomic int stopped;
static _Atomic int stops_the_process;

/* Memory that is not there makes a short copy, and no signal. */
static int32_t copy_in(void *context, void *to, uintptr_t from, uintptr_t len) {
    struct iovec here = {to, len}, there = {(void *)from, len};
    (void)context;
    if (from == stops_at && from != 0) {
        stopped = 1;
        if (stops_the_process) {
            shared->turn = 1;
            raise(SIGSTOP);
            stops_at = 0;
        } else {
            for (;;)
                pause();
        }
    }
    return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)len;
}

static int32_t copy_out(void *context, uintptr_t to, const void *from, uintptr_t len) {
    struct iovec here = {(void *)from, len}, there = {(void *)to, len};
    (void)context;
    return process_vm_writev(getpid(), &here, 1, &there, 1, 0) == (ssize_t)len;
}

static _Atomic int completed[64];
static _Atomic npfs_host_status completed_with[64];

static void complete(void *context, uint64_t cookie, npfs_host_status status, uintptr_t information) {
    (void)context;
    CHECK(cookie < 64 && (information == 4 || status != NPFS_HOST_OK));
    completed_with[cookie] = status;
    completed[cookie]++;
}

static void *pump(void *nothing) {
    for (;;) {
        npfs_host_pump_wait(NEVER);
        npfs_host_pump_run(0);
    }
    return nothing;
}

static void start_pump(void *context) {
    pthread_t thread;
    (void)context;
    CHECK(pthread_create(&thread, NULL, pump, NULL) == 0);
}

static npfs_host_conn attach(int server, uint32_t side) {
    npfs_host_ops ops = {sizeof ops, NULL, copy_in, copy_out, complete, start_pump};
    struct request request = {ATTACH, side, 0, 0, {0}};
    struct answer answer;
    npfs_host_conn conn;
    CHECK(npfs_host_init(&ops) == NPFS_HOST_OK);
    int memfd = ask(server, &request, &answer);
    CHECK(answer.status == NPFS_HOST_OK && memfd >= 0);
    CHECK(npfs_host_attach(memfd, &answer.end, &conn) == NPFS_HOST_OK);
    return conn;
}

static npfs_host_status finish(npfs_host_status begun, npfs_host_wait *wait, uintptr_t *count) {
    if (begun != NPFS_HOST_OK && begun != NPFS_HOST_PENDING)
        return begun;
    for (;;) {
        npfs_host_status status;
        if (begun == NPFS_HOST_PENDING)
            npfs_host_wait_block(wait, NEVER);
        status = npfs_host_wait_end(wait, count);
        if (status != NPFS_HOST_WOULD_BLOCK)
            return status;
        begun = NPFS_HOST_PENDING;
    }
}

static npfs_host_status blocking(npfs_host_conn conn, uint32_t kind, void *buf, size_t len, uintptr_t *count) {
    npfs_host_wait wait;
    memset(&wait, 0, sizeof wait);
    return finish(npfs_host_wait_begin(conn, kind, (uintptr_t)buf, len, &wait), &wait, count);
}

static void must_read(npfs_host_conn conn, const char *expected) {
    char buf[MOST] = {0}; /* a copy by the kernel is none that valgrind sees */
    uintptr_t count = 0;
    CHECK(blocking(conn, NPFS_HOST_READ, buf, sizeof buf, &count) == NPFS_HOST_OK);
    CHECK(count == strlen(expected) && memcmp(buf, expected, count) == 0);
}

static void must_write(npfs_host_conn conn, const char *text) {
    uintptr_t count = 0;
    CHECK(blocking(conn, NPFS_HOST_WRITE, (void *)text, strlen(text), &count) == NPFS_HOST_OK);
    CHECK(count == strlen(text));
}

/* Two pages, of which the second is not there. */
static char *edge(void) {
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(pages != MAP_FAILED && mprotect(pages + 4096, 4096, PROT_NONE) == 0);
    memset(pages, 'x', 4096);
    return pages + 4096;
}

static void rest(long milliseconds) {
    struct timespec time = {0, milliseconds * 1000000};
    nanosleep(&time, NULL);
}

/* ---- scenarios: what the program at the server end does, and the one at the client end ------------------------------ */

#define TURNS 2000

static void echo_server_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_SERVER);
    for (int i = 0; i < TURNS; i++) {
        must_read(conn, "ask");
        must_write(conn, "answer");
    }
    must_read(conn, "over");
}

static void echo_client_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_CLIENT);
    struct request request = {STATS, 0, 0, 0, {0}};
    struct answer answer;
    for (int i = 0; i < TURNS; i++) {
        must_write(conn, "ask");
        must_read(conn, "answer");
    }
    /* The server knows what has passed, and had nothing to do with it. */
    ask(server, &request, &answer);
    CHECK(answer.status == NPFS_HOST_OK);
    CHECK(answer.stats.reads == 0 && answer.stats.writes == 0 && answer.stats.peeks == 0);
    CHECK(answer.stats.tickets == 0 && answer.stats.callbacks == 0);
    CHECK(answer.stats.messages_read[NPFS_HOST_CLIENT] == TURNS);
    CHECK(answer.stats.bytes_written[NPFS_HOST_SERVER] == TURNS * strlen("ask"));
    must_write(conn, "over");
}

static void slow_server_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_SERVER);
    must_read(conn, "by way of the server");
    rest(30); /* the other one's read pends there */
    must_write(conn, "to it");
    must_read(conn, "done");
}

/* It has no memory of the pipe: the server reads and writes for it. */
static void slow_client_end(int server) {
    struct request write = {WRITE, NPFS_HOST_CLIENT, 0, 20, "by way of the server"};
    struct request done = {WRITE, NPFS_HOST_CLIENT, 0, 4, "done"};
    struct request read = {READ, NPFS_HOST_CLIENT, 0, MOST, {0}};
    struct answer answer;
    ask(server, &write, &answer);
    CHECK(answer.status == NPFS_HOST_OK && answer.count == 20);
    ask(server, &read, &answer);
    CHECK(answer.status == NPFS_HOST_OK && answer.count == 5 && memcmp(answer.data, "to it", 5) == 0);
    ask(server, &done, &answer);
    CHECK(answer.status == NPFS_HOST_OK);
}

#define LENGTH 64

static void faults_server_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_SERVER);
    char *end = edge();
    uintptr_t count;
    for (size_t there = 0; there < LENGTH; there++) {
        CHECK(blocking(conn, NPFS_HOST_WRITE, end - there, LENGTH, &count) == NPFS_HOST_FAULT);
        CHECK(npfs_host_try_write(conn, (uintptr_t)end - there, LENGTH, &count) == NPFS_HOST_FAULT);
        must_write(conn, "whole");
    }
}

static void faults_client_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_CLIENT);
    char *end = edge();
    uintptr_t count;
    for (size_t there = 0; there < LENGTH; there++) {
        /* It pends perhaps, is given the message, and gives it back. */
        size_t room = there % 5;
        CHECK(blocking(conn, NPFS_HOST_READ, end - room, LENGTH, &count) == NPFS_HOST_FAULT);
        CHECK(npfs_host_try_read(conn, (uintptr_t)end - room, LENGTH, &count) == NPFS_HOST_FAULT);
        must_read(conn, "whole");
    }
}

static __thread npfs_host_wait own_wait;
static _Atomic pid_t its_id;

/* Ends a thread as a signal does that nobody expects. It is not joined: its memory would be used again, half torn down. */
static void end_thread(pthread_t thread, int number) {
    CHECK(pthread_kill(thread, number) == 0);
    while (syscall(SYS_tgkill, getpid(), its_id, 0) == 0)
        rest(1);
}

static void end_of_thread(int number) {
    (void)number;
    npfs_host_wait_abandon(&own_wait);
    syscall(SYS_exit, 0);
}

static void *waits(void *conn) {
    static char buf[16];
    npfs_host_status begun =
        npfs_host_wait_begin(*(npfs_host_conn *)conn, NPFS_HOST_READ, (uintptr_t)buf, sizeof buf, &own_wait);
    CHECK(begun == NPFS_HOST_PENDING);
    its_id = (pid_t)syscall(SYS_gettid);
    shared->turn++;
    do
        npfs_host_wait_block(&own_wait, NEVER);
    while (npfs_host_wait_end(&own_wait, NULL) == NPFS_HOST_WOULD_BLOCK);
    CHECK(!"it is ended before");
    return NULL;
}

static void kills_server_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_SERVER);
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = end_of_thread;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    for (int i = 0; i < 10; i++) {
        pthread_t thread;
        int before = shared->turn;
        CHECK(pthread_create(&thread, NULL, waits, &conn) == 0);
        while (shared->turn == before)
            rest(1);
        rest(2);
        end_thread(thread, SIGUSR1);
        /* Its place in line is given up: the message is for this thread. */
        must_write(conn, "go on");
        must_read(conn, "for the next");
    }
}

static void kills_client_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_CLIENT);
    for (int i = 0; i < 10; i++) {
        must_read(conn, "go on");
        must_write(conn, "for the next");
    }
}

static char in_the_middle[8] = "middle";
static _Atomic uint32_t number_of_thread;

static void end_in_a_copy(int number) {
    (void)number;
    syscall(SYS_exit, 0);
}

static void *copies(void *conn) {
    uintptr_t count;
    number_of_thread = npfs_host_thread();
    its_id = (pid_t)syscall(SYS_gettid);
    npfs_host_try_write(*(npfs_host_conn *)conn, (uintptr_t)in_the_middle, 6, &count);
    CHECK(!"it is ended before");
    return NULL;
}

static void swept_server_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_SERVER);
    struct sigaction action;
    struct request request = {SWEEP, 0, 0, 0, {0}};
    struct answer answer;
    pthread_t thread;
    uintptr_t count;
    memset(&action, 0, sizeof action);
    action.sa_handler = end_in_a_copy;
    CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
    stops_at = (uintptr_t)in_the_middle;
    CHECK(pthread_create(&thread, NULL, copies, &conn) == 0);
    while (!stopped)
        rest(1);
    CHECK(npfs_host_try_write(conn, (uintptr_t) "wait", 4, &count) == NPFS_HOST_BUSY);
    end_thread(thread, SIGUSR2);
    CHECK(npfs_host_try_write(conn, (uintptr_t) "wait", 4, &count) == NPFS_HOST_BUSY);
    request.argument = number_of_thread;
    ask(server, &request, &answer);
    CHECK(answer.status == NPFS_HOST_OK);
    CHECK(npfs_host_try_write(conn, (uintptr_t) "after", 5, &count) == NPFS_HOST_OK);
    must_read(conn, "good");
}

static void swept_client_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_CLIENT);
    must_read(conn, "after");
    must_write(conn, "good");
}

static void death_server_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_SERVER);
    char buf[16] = {0};
    uintptr_t count;
    must_read(conn, "last words");
    CHECK(blocking(conn, NPFS_HOST_READ, buf, sizeof buf, &count) == NPFS_HOST_BROKEN);
    CHECK(npfs_host_try_write(conn, (uintptr_t)buf, 1, &count) == NPFS_HOST_CLOSING);
}

static void death_client_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_CLIENT);
    must_write(conn, "last words");
    raise(SIGKILL);
}

/* A process is stopped in the middle of a write: it keeps the others from writing at its end, and from nothing else. */
static void stop_server_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_SERVER);
    struct request write = {WRITE, NPFS_HOST_CLIENT, 0, 6, "behind"};
    struct answer answer;
    char buf[16] = {0};
    uintptr_t count;
    while (shared->turn != 1)
        rest(1);
    rest(10);
    CHECK(npfs_host_try_read(conn, (uintptr_t)buf, sizeof buf, &count) == NPFS_HOST_WOULD_BLOCK);
    must_write(conn, "to it");
    ask(server, &write, &answer);
    CHECK(answer.status == NPFS_HOST_BUSY);
    CHECK(kill(shared->pids[1], SIGCONT) == 0);
    must_read(conn, "middle");
    do
        receive_answer(server, &answer);
    while (answer.status == NPFS_HOST_BUSY);
    CHECK(answer.status == NPFS_HOST_OK && answer.count == 6);
    must_read(conn, "behind");
    must_write(conn, "over");
}

static void stop_client_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_CLIENT);
    uintptr_t count;
    stops_at = (uintptr_t)in_the_middle;
    stops_the_process = 1;
    CHECK(npfs_host_try_write(conn, (uintptr_t)in_the_middle, 6, &count) == NPFS_HOST_OK);
    must_read(conn, "to it");
    must_read(conn, "over");
}

static void pump_server_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_SERVER);
    static npfs_host_op ops[16];
    static char bufs[16][8];
    uintptr_t count;
    for (uint64_t i = 0; i < 16; i++)
        CHECK(npfs_host_submit(conn, NPFS_HOST_READ, (uintptr_t)bufs[i], 8, i, 0, &ops[i], &count) ==
              NPFS_HOST_PENDING);
    must_write(conn, "go on");
    for (int i = 0; i < 12; i++)
        while (!completed[i])
            rest(1);
    CHECK(npfs_host_cancel(conn, 0, 0, 0, &count) == NPFS_HOST_OK && count == 4);
    for (int i = 0; i < 16; i++) {
        while (!completed[i])
            rest(1);
        CHECK(completed[i] == 1);
        CHECK(completed_with[i] == (i < 12 ? NPFS_HOST_OK : NPFS_HOST_CANCELLED));
        CHECK(i >= 12 || (bufs[i][0] == 'a' + i && bufs[i][3] == 'a' + i));
    }
    must_write(conn, "over");
}

static void pump_client_end(int server) {
    npfs_host_conn conn = attach(server, NPFS_HOST_CLIENT);
    must_read(conn, "go on");
    for (int i = 0; i < 12; i++) {
        char text[5] = {0};
        memset(text, 'a' + i, 4);
        must_write(conn, text);
    }
    must_read(conn, "over");
}

/* -------------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*program[2])(int server);
    int dies;
} scenarios[] = {
    {"the server stays off the path", {echo_server_end, echo_client_end}, 0},
    {"the server reads and writes for a third", {slow_server_end, slow_client_end}, 0},
    {"copies that fail at every byte", {faults_server_end, faults_client_end}, 0},
    {"threads that end in a wait", {kills_server_end, kills_client_end}, 0},
    {"a thread that ends in a copy", {swept_server_end, swept_client_end}, 0},
    {"a process that is killed", {death_server_end, death_client_end}, 1},
    {"a process that is stopped in a copy", {stop_server_end, stop_client_end}, 0},
    {"a pump on a thread of the host's", {pump_server_end, pump_client_end}, 0},
};

static void play(size_t number) {
    struct server server;
    int far[2];
    memset(&server, 0, sizeof server);
    scenario = scenarios[number].name;
    shared->turn = 0;
    for (int program = 0; program < 2; program++) {
        int pair[2];
        CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
        server.sockets[program] = pair[0];
        far[program] = pair[1];
    }
    for (int program = 0; program < 2; program++) {
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            /* The ends of the others would keep their ends from being seen. */
            close(server.sockets[0]);
            close(server.sockets[1]);
            close(far[1 - program]);
            scenarios[number].program[program](far[program]);
            _exit(0);
        }
        server.pids[program] = shared->pids[program] = pid;
    }
    close(far[0]);
    close(far[1]);
    serve(&server, 4096);
    for (int program = 0; program < 2; program++) {
        int status = server.ended[program];
        int killed = scenarios[number].dies && program == 1;
        CHECK(killed ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

int main(void) {
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    for (size_t number = 0; number < sizeof scenarios / sizeof scenarios[0]; number++)
        play(number);
    printf("toy host: %zu scenarios as they should be\n", sizeof scenarios / sizeof scenarios[0]);
    return 0;
}
