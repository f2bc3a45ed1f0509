/* A long network path between two network namespaces, in user space: for kernels without netem.
 *
 *   wan_link NETNS_A NETNS_B TUN_NAME
 *
 * makes a TUN device called TUN_NAME in each of the two namespaces (paths such as /run/netns/x) and carries IP packets
 * between them. Each direction has: a line of a given rate (packets leave one after the other), a bounded queue in
 * front of it that drops what does not fit, random loss behind it, and a delay. Sizes are those of the IP packets.
 *
 * Commands come as lines on standard input, each is answered by one line of JSON; the end of input ends the program:
 *   set ab|ba DELAY_US RATE_BITS_PER_S QUEUE_BYTES LOSS SEED
 *   refuse ab|ba 0|1      drop the first packet of each TCP connection in that direction: nobody there can be dialled
 *   cut 0|1               drop everything, both ways
 *   stats
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define RING_BYTES (64u << 20) /* packets on their way, one direction; what exceeds it is dropped as by a full queue */
#define MAX_PACKET 2048u
#define BATCH 64

struct slot {
    uint64_t due_ns;
    uint32_t length;
    uint32_t wrap; /* nothing more before the end of the ring */
};

struct direction {
    int in, out;
    /* settings: written by the command thread, read by the carrier */
    _Atomic uint64_t delay_ns, bits_per_s, queue_bytes, loss_per_2_32, seed;
    _Atomic int refuse_dialling;
    /* counters: written by the carrier, read by the command thread */
    _Atomic uint64_t packets, bytes, lost, overflowed, refused;
    uint64_t random, line_free_ns;
    uint8_t *ring;
    uint32_t head, tail, used;
};

static _Atomic int is_cut;

static void fail(const char *what) {
    fprintf(stderr, "wan_link: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* xorshift64*, upper half */
static uint32_t draw(struct direction *d) {
    uint64_t x = d->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    d->random = x;
    return (uint32_t)((x * 2685821657736338717u) >> 32);
}

static int opens_connection(const uint8_t *packet, uint32_t length) {
    if (length < 40 || packet[0] >> 4 != 4 || packet[9] != 6)
        return 0;
    uint32_t header = (packet[0] & 15u) * 4u;
    return length >= header + 20 && (packet[header + 13] & 0x12) == 0x02; /* SYN without ACK */
}

static uint32_t slot_bytes(uint32_t length) {
    return (uint32_t)((sizeof(struct slot) + length + 15u) & ~15u);
}

static int put(struct direction *d, const uint8_t *packet, uint32_t length, uint64_t due_ns) {
    uint32_t size = slot_bytes(length), to_end = RING_BYTES - d->head;
    if (to_end < size + sizeof(struct slot)) {
        if (d->used + to_end + size > RING_BYTES)
            return 0;
        ((struct slot *)(d->ring + d->head))->wrap = 1;
        d->used += to_end;
        d->head = 0;
    }
    if (d->used + size > RING_BYTES)
        return 0;
    struct slot *slot = (struct slot *)(d->ring + d->head);
    *slot = (struct slot){due_ns, length, 0};
    memcpy(slot + 1, packet, length);
    d->head += size;
    d->used += size;
    return 1;
}

static struct slot *first(struct direction *d) {
    if (d->used == 0)
        return NULL;
    struct slot *slot = (struct slot *)(d->ring + d->tail);
    if (slot->wrap) {
        d->used -= RING_BYTES - d->tail;
        d->tail = 0;
        if (d->used == 0)
            return NULL;
        slot = (struct slot *)d->ring;
    }
    return slot;
}

static void accept_packet(struct direction *d, const uint8_t *packet, uint32_t length, uint64_t now) {
    uint64_t rate = d->bits_per_s;
    if (is_cut || (d->refuse_dialling && opens_connection(packet, length))) {
        d->refused++;
        return;
    }
    if (d->line_free_ns < now)
        d->line_free_ns = now;
    uint64_t waiting = (uint64_t)((__uint128_t)(d->line_free_ns - now) * rate / 8000000000u);
    if (waiting + length > d->queue_bytes) {
        d->overflowed++;
        return;
    }
    uint64_t after = d->line_free_ns + (uint64_t)length * 8000000000u / rate;
    /* lost packets have used the line */
    if (draw(d) < d->loss_per_2_32) {
        d->line_free_ns = after;
        d->lost++;
    } else if (put(d, packet, length, after + d->delay_ns)) {
        d->line_free_ns = after;
    } else {
        d->overflowed++;
    }
}

static void *carry(void *argument) {
    struct direction *d = argument;
    uint8_t packet[MAX_PACKET];
    uint64_t seed = 0;
    prctl(PR_SET_TIMERSLACK, 1000);
    for (;;) {
        if (seed != d->seed) {
            seed = d->seed;
            d->random = seed * 0x9E3779B97F4A7C15u | 1;
        }
        uint64_t now = now_ns();
        struct slot *slot;
        for (int n = 0; n < BATCH && (slot = first(d)) != NULL && slot->due_ns <= now; n++) {
            if (write(d->out, slot + 1, slot->length) > 0) {
                d->packets++;
                d->bytes += slot->length;
            } else {
                d->overflowed++; /* a device that is down, or a namespace being removed */
            }
            d->used -= slot_bytes(slot->length);
            d->tail += slot_bytes(slot->length);
        }
        int got = 0;
        for (; got < BATCH; got++) {
            ssize_t length = read(d->in, packet, sizeof packet);
            if (length <= 0)
                break;
            accept_packet(d, packet, (uint32_t)length, now_ns());
        }
        slot = first(d);
        now = now_ns();
        if (got == BATCH || (slot != NULL && slot->due_ns <= now))
            continue;
        struct timespec wait = {1, 0};
        if (slot != NULL) {
            uint64_t left = slot->due_ns - now;
            wait.tv_sec = (time_t)(left / 1000000000u);
            wait.tv_nsec = (long)(left % 1000000000u);
        }
        struct pollfd poll_in = {d->in, POLLIN, 0};
        ppoll(&poll_in, 1, &wait, NULL);
        if (poll_in.revents & (POLLERR | POLLHUP))
            usleep(1000); /* the device is down: do not spin */
    }
    return NULL;
}

static int tun_in(const char *namespace_path, const char *name) {
    int space = open(namespace_path, O_RDONLY | O_CLOEXEC);
    if (space < 0 || setns(space, CLONE_NEWNET) != 0)
        fail(namespace_path);
    close(space);
    int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (device < 0)
        fail("/dev/net/tun");
    struct ifreq request = {0};
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
    if (ioctl(device, TUNSETIFF, &request) != 0)
        fail("TUNSETIFF");
    return device;
}

static void print_counts(const char *name, struct direction *d, const char *end) {
    printf("\"%s\":{\"packets\":%lu,\"bytes\":%lu,\"lost\":%lu,\"overflowed\":%lu,\"refused\":%lu}%s", name, d->packets,
           d->bytes, d->lost, d->overflowed, d->refused, end);
}

static int command(struct direction *ab, struct direction *ba, const char *line) {
    char way[3] = "";
    unsigned long delay_us, rate, queue, seed;
    int flag;
    double loss;
    if (sscanf(line, "set %2s %lu %lu %lu %lf %lu", way, &delay_us, &rate, &queue, &loss, &seed) == 6 && rate > 0) {
        struct direction *d = strcmp(way, "ab") == 0 ? ab : ba;
        d->delay_ns = delay_us * 1000u;
        d->bits_per_s = rate;
        d->queue_bytes = queue;
        d->loss_per_2_32 = (uint64_t)(loss * 4294967296.0);
        d->seed = seed;
    } else if (sscanf(line, "refuse %2s %d", way, &flag) == 2) {
        (strcmp(way, "ab") == 0 ? ab : ba)->refuse_dialling = flag;
    } else if (sscanf(line, "cut %d", &flag) == 1) {
        is_cut = flag;
    } else if (strncmp(line, "stats", 5) != 0) {
        return 0;
    }
    return 1;
}

int main(int count, char **arguments) {
    if (count != 4) {
        fprintf(stderr, "usage: wan_link NETNS_A NETNS_B TUN_NAME\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    static struct direction ab, ba;
    int a = tun_in(arguments[1], arguments[3]), b = tun_in(arguments[2], arguments[3]);
    ab.in = ba.out = a;
    ba.in = ab.out = b;
    struct direction *both[] = {&ab, &ba};
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        both[i]->bits_per_s = 1000000000u;
        both[i]->queue_bytes = 1u << 20;
        both[i]->seed = (uint64_t)i + 1;
        both[i]->ring = aligned_alloc(16, RING_BYTES);
        if (both[i]->ring == NULL || pthread_create(&thread, NULL, carry, both[i]) != 0)
            fail("start");
    }
    char line[256];
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (!command(&ab, &ba, line)) {
            printf("{\"error\":\"unknown command\"}\n");
        } else {
            printf("{");
            print_counts("ab", &ab, ",");
            print_counts("ba", &ba, "}\n");
        }
        fflush(stdout);
    }
    return 0;
}
