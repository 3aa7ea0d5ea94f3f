/* Open-loop load on a local HTTP/1.1 server: requests leave at a constant rate whether or not answers arrive.
 * open_loop PORT PATH BODY_FILE RATE SECONDS LIMIT_MS CONNECTIONS [HEADER_LINES]
 * Prints one JSON object. Latencies count from the planned time of sending. Bounded: it ends at most LIMIT_MS + 5 s after
 * the last request is due. One thread; a request costs it a few microseconds, so that it leaves the machine to the server.
 *
 * With a RATE of 0 the loop is closed: every connection sends its next request when its answer is there. It prints a line
 * "measuring" when each connection has had an answer, or after 20 s, and counts for SECONDS from then on. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD 8192
#define WARM_S 20.0
#define OPENED_AT_ONCE 100
#define KEPT 8000000

typedef struct {
    int fd, have, busy, writable;
    size_t sent;
    long need; /* bytes of the answer that are missing; -1 while its head is incomplete, -2 until the last chunk */
    int status, retry_after, closing, warm;
    double planned;
    char head[HEAD + 1];
} connection;

static char *message;
static size_t message_size;
static int poller, *idle, idle_count, opened, most;
static connection *all;
static long statuses[600], late, missing, answered, count_ok, given_up, kept, warmed;
static double *latencies, limit_s;
static struct sockaddr_in address;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(connection *c, int writing) {
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(poller, c->writable == -1 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, c->fd, &event)) die("epoll_ctl");
    c->writable = writing;
}

static void connect_it(connection *c) {
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) die("connect");
    c->writable = -1;
}

static void push(connection *c) {
    ssize_t n = 0;
    while (c->sent < message_size && (n = write(c->fd, message + c->sent, message_size - c->sent)) > 0) c->sent += n;
    if (c->sent < message_size) watch(c, 1);
    else if (c->writable != 0) watch(c, 0);
}

static void start(connection *c, double planned) {
    c->planned = planned;
    c->busy = 1;
    c->sent = c->have = c->status = c->retry_after = c->closing = 0;
    c->need = -1;
    if (c->fd < 0) connect_it(c);
    push(c);
}

static void finish(connection *c, int lost) {
    double took = now_s() - c->planned;
    if (c->busy) {
        int status = lost ? 0 : c->status;
        statuses[status]++;
        answered++;
        if (!c->warm) c->warm = 1, warmed++;
        if (status == 200) {
            count_ok++;
            if (kept < KEPT) latencies[kept++] = took;
            late += took > limit_s;
        } else if ((status == 429 || status == 503) && !c->retry_after) missing++;
        c->busy = 0;
        idle[idle_count++] = (int)(c - all);
    }
    if (lost || c->closing) {
        close(c->fd);
        c->fd = -1;
    }
}

static void parse_head(connection *c) {
    char *end = memmem(c->head, c->have, "\r\n\r\n", 4), *at;
    if (!end) return;
    size_t size = end + 4 - c->head;
    c->status = atoi(c->head + 9);
    if (c->status < 0 || c->status > 599) c->status = 0;
    char keep = *end;
    *end = 0;
    c->retry_after = strcasestr(c->head, "\r\nretry-after:") != NULL;
    c->closing = strcasestr(c->head, "\r\nconnection: close") != NULL;
    at = strcasestr(c->head, "\r\ncontent-length:");
    c->need = at ? atol(at + 17) - (long)(c->have - size) : -2;
    *end = keep;
}

static void receive(connection *c) {
    char more[65536];
    for (;;) {
        ssize_t n = read(c->fd, more, sizeof more);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) return finish(c, 1);
        if (!c->busy) continue;
        if (c->need >= 0) c->need -= n;
        else {
            ssize_t fits = n < HEAD - c->have ? n : HEAD - c->have;
            memcpy(c->head + c->have, more, fits);
            c->have += fits;
            c->head[c->have] = 0;
            if (c->need == -1) parse_head(c);
            if (c->need == -2 && c->have >= 5 && !memcmp(c->head + c->have - 5, "0\r\n\r\n", 5)) c->need = 0;
        }
        if (c->need == 0) return finish(c, 0);
    }
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at_share(double share) { return kept ? latencies[(long)(share * (kept - 1))] * 1e3 : -1; }

static void report(double took, long sent) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    qsort(latencies, kept, sizeof *latencies, by_size);
    printf("{\"sent\":%ld,\"answered\":%ld,\"late\":%ld,\"retry_after_missing\":%ld,\"unanswered\":%ld,\"took_s\":%.4f,"
           "\"cpu_s\":%.4f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"max_ms\":%.3f,\"statuses\":{",
           sent, answered, late, missing, given_up, took, cpu, at_share(0.5), at_share(0.99), at_share(1));
    for (int status = 0, first = 1; status < 600; status++)
        if (statuses[status]) printf("%s\"%d\":%ld", first ? "" : ",", status, statuses[status]), first = 0;
    printf("}}\n");
}

static void step(void) {
    struct epoll_event events[256];
    int n = epoll_wait(poller, events, 256, 1);
    for (int i = 0; i < n; i++) {
        connection *c = events[i].data.ptr;
        if (c->fd < 0) continue;
        if (events[i].events & EPOLLOUT && c->busy) push(c);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && c->fd >= 0) receive(c);
    }
}

static void open_for(double seconds, double rate) {
    long total = rate * seconds, sent = 0;
    double started = now_s(), end = started + seconds + limit_s + 5;
    while (answered < total && now_s() < end) {
        double now = now_s();
        while (sent < total && started + sent / rate <= now && (idle_count || opened < most))
            start(&all[idle_count ? idle[--idle_count] : opened++], started + sent++ / rate);
        step();
    }
    given_up = total - answered;
    report(now_s() - started, sent);
}

static void closed_for(double seconds) {
    double started = now_s(), begun = 0;
    while (!begun || now_s() < begun + seconds) {
        while (idle_count) start(&all[idle[--idle_count]], now_s());
        for (int i = 0; i < OPENED_AT_ONCE && opened < most; i++) start(&all[opened++], now_s());
        step();
        if (!begun && (warmed == most || now_s() > started + WARM_S)) {
            printf("measuring\n");
            fflush(stdout);
            begun = now_s();
            memset(statuses, 0, sizeof statuses);
            late = missing = answered = count_ok = kept = 0;
        }
    }
    given_up = most - warmed;
    report(now_s() - begun, answered);
}

static void read_message(const char *path, const char *body_file, const char *headers) {
    FILE *file = fopen(body_file, "rb");
    if (!file) die(body_file);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    message = malloc(size + strlen(path) + strlen(headers) + 256);
    message_size = sprintf(message, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%sContent-Length: %ld\r\n\r\n", path, headers, size);
    if (fread(message + message_size, 1, size, file) != (size_t)size) die(body_file);
    message_size += size;
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc < 8) return fprintf(stderr, "open_loop PORT PATH BODY RATE SECONDS LIMIT_MS CONNECTIONS [HEADERS]\n"), 2;
    double rate = atof(argv[4]), seconds = atof(argv[5]);
    limit_s = atof(argv[6]) / 1e3;
    most = atoi(argv[7]);
    read_message(argv[2], argv[3], argc > 8 ? argv[8] : "Content-Type: application/json\r\n");
    address.sin_family = AF_INET;
    address.sin_port = htons(atoi(argv[1]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    poller = epoll_create1(0);
    all = calloc(most, sizeof *all);
    idle = malloc(sizeof *idle * most);
    latencies = malloc(sizeof *latencies * KEPT);
    if (!all || !idle || !latencies) die("malloc");
    for (int i = 0; i < most; i++) all[i].fd = -1;
    if (rate > 0) open_for(seconds, rate);
    else closed_for(seconds);
    return 0;
}
