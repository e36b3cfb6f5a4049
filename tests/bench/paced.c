/* An open loop: requests leave at a fixed rate whatever the answers do, and each latency counts from the moment its request should have
 * left, so that a proxy that stalls pays for all who would have come meanwhile (no coordinated omission).
 *
 *   paced PORT RATE SECONDS CONNECTIONS FILE
 *
 * FILE holds GETs, sent in turn. Prints one JSON object; times in microseconds. The first 300 ms are not counted. Answers that are not
 * there five seconds after the last request should have left count as if they came then. An answer that is not 200 with a Content-Length,
 * or that breaks off, ends it with status 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define HEAD 8192
#define WARM_UP 0.3
#define PATIENCE 5.0 /* seconds that the last answers may take */

struct connection {
  int fd, busy, filled;
  long left; /* bytes of the body still to come; -1 while the head comes */
  double due;
  char head[HEAD + 1];
};

static int epoll, port;
static const char **requests;
static size_t *lengths, count;

static void fail(const char *what) { fprintf(stderr, "paced: %s\n", what); exit(1); }

static double now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void load(const char *name)
{
  FILE *file = fopen(name, "rb");
  if (!file) fail("no such file of requests");
  fseek(file, 0, SEEK_END);
  size_t size = ftell(file), room = 0;
  rewind(file);
  char *text = malloc(size), *end;
  if (fread(text, 1, size, file) != size) fail("cannot read the requests");
  fclose(file);
  for (char *from = text; (end = memmem(from, text + size - from, "\r\n\r\n", 4)); from = end + 4) {
    if (count == room) {
      room = room ? 2 * room : 1024;
      requests = realloc(requests, room * sizeof *requests);
      lengths = realloc(lengths, room * sizeof *lengths);
    }
    requests[count] = from;
    lengths[count++] = end + 4 - from;
  }
  if (!count) fail("no request in the file");
}

static void dial(struct connection *c)
{
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to)) fail("cannot connect");
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
  c->busy = c->filled = 0;
  c->left = -1;
}

/* Whether the answer is complete. */
static int take(struct connection *c)
{
  static char buffer[1 << 16];
  for (;;) {
    ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    if (got <= 0) {
      if (c->busy) fail("the answer broke off");
      close(c->fd); /* an idle connection may be closed at any time */
      dial(c);
      return 0;
    }
    if (!c->busy) fail("an answer that nobody asked for");
    if (c->left < 0) {
      int room = HEAD - c->filled, used = got < room ? got : room;
      memcpy(c->head + c->filled, buffer, used);
      c->filled += used;
      c->head[c->filled] = 0;
      char *end = strstr(c->head, "\r\n\r\n"), *length = strcasestr(c->head, "\r\ncontent-length:");
      if (!end) {
        if (c->filled == HEAD) fail("a head of more than 8 KiB");
        continue;
      }
      if (strncmp(c->head, "HTTP/1.1 200 ", 13) || !length || length > end) {
        fprintf(stderr, "%.*s\n", (int)(end - c->head), c->head);
        fail("an answer that is not 200 with a length");
      }
      c->left = atol(length + 17) - (c->filled - (end + 4 - c->head)) - (got - used);
    } else {
      c->left -= got;
    }
    if (c->left < 0) fail("more bytes than Content-Length says");
    if (c->left == 0) {
      c->busy = c->filled = 0;
      c->left = -1;
      return 1;
    }
  }
}

static int ascending(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
  if (argc != 6) fail("usage: paced PORT RATE SECONDS CONNECTIONS FILE");
  port = atoi(argv[1]);
  double rate = atof(argv[2]), seconds = atof(argv[3]);
  int connections = atoi(argv[4]);
  load(argv[5]);
  if (rate <= 0 || seconds <= 0 || connections < 1) fail("rate, seconds and connections are above 0");
  prctl(PR_SET_TIMERSLACK, 1UL);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  struct connection *all = calloc(connections, sizeof *all), **idle = malloc(connections * sizeof *idle);
  struct epoll_event *events = malloc(connections * sizeof *events);
  for (int i = 0; i < connections; i++) dial(idle[i] = &all[i]);
  long wanted = (long)(rate * (seconds + WARM_UP)), sent = 0, done = 0, counted = 0, behind = 0;
  double *latencies = malloc((wanted + 1) * sizeof *latencies);
  int free_ones = connections;
  double start = now(), limit = start + WARM_UP + seconds + PATIENCE;
  while (done < wanted) {
    double at = now();
    if (at > limit) break;
    while (free_ones && sent < wanted && start + sent / rate <= at) {
      struct connection *c = idle[--free_ones];
      c->due = start + sent / rate;
      c->busy = 1;
      size_t i = sent++ % count;
      if (send(c->fd, requests[i], lengths[i], MSG_NOSIGNAL) != (ssize_t)lengths[i]) fail("cannot send");
    }
    long due = (long)((at - start) * rate);
    if (due > wanted) due = wanted;
    if (due - sent > behind) behind = due - sent;
    double pause = free_ones && sent < wanted ? start + sent / rate - now() : limit - at;
    if (pause < 0) pause = 0;
    struct timespec wait = {.tv_sec = (time_t)pause, .tv_nsec = (long)((pause - (time_t)pause) * 1e9)};
    int ready = epoll_pwait2(epoll, events, connections, &wait, NULL);
    for (int i = 0; i < ready; i++) {
      struct connection *c = events[i].data.ptr;
      if (!take(c)) continue;
      done++;
      idle[free_ones++] = c;
      if (c->due >= start + WARM_UP) latencies[counted++] = (now() - c->due) * 1e6;
    }
  }
  long unanswered = wanted - done;
  double end = now(); /* who has no answer yet has waited at least so long */
  for (int i = 0; i < connections; i++)
    if (all[i].busy && all[i].due >= start + WARM_UP) latencies[counted++] = (end - all[i].due) * 1e6;
  for (; sent < wanted; sent++)
    if (start + sent / rate >= start + WARM_UP) latencies[counted++] = (end - start - sent / rate) * 1e6;
  if (!counted) fail("no request was counted");
  qsort(latencies, counted, sizeof *latencies, ascending);
  printf("{\"requests\": %ld, \"unanswered\": %ld, \"most_waiting\": %ld, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
    counted, unanswered, behind, latencies[counted / 2], latencies[counted * 9 / 10], latencies[counted * 99 / 100], latencies[counted - 1]);
  return 0;
}
