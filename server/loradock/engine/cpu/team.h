/* A team of threads that go through a step together.
 *
 * OpenMP's own teams won't do: as soon as a process has more of them than cores, which a server with
 * threads that load has, they sleep at every barrier, and a step has hundreds. Here a thread that
 * waits spins for some ten microseconds, as long as the others usually are behind, and then sleeps:
 * something else that wants the core gets it.
 */
#pragma once
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

#define SPINS 1500

typedef struct Team Team;

/* One thread of a team. */
typedef struct {
    Team *team;
    int thread; /* 0 is the caller of `team_run` */
} Member;

struct Team {
    int threads;
    _Atomic int32_t arrived, turn, sleepers, next;
    int stopping;
    void (*job)(const Member *, void *);
    void *argument;
    Member *members;
    pthread_t *handles;
};

static inline void team_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void team_sleep(Team *team, int32_t turn) {
    team->sleepers++;
    while (team->turn == turn)
#ifdef __linux__
        syscall(SYS_futex, &team->turn, FUTEX_WAIT_PRIVATE, turn, NULL, NULL, 0);
#else
        sched_yield();
#endif
    team->sleepers--;
}

/* Wait until all members are here. The last one sets the counter of `team_next` back. */
static void team_meet(Team *team) {
    const int32_t turn = team->turn;
    if (++team->arrived == team->threads) {
        team->arrived = 0;
        team->next = 0;
        team->turn = turn + 1;
#ifdef __linux__
        if (team->sleepers)
            syscall(SYS_futex, &team->turn, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
#endif
        return;
    }
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&team->turn, memory_order_acquire) != turn) return;
        team_pause();
    }
    team_sleep(team, turn);
}

/* Hand out 0, 1, 2, … to whoever asks, once each between two meetings. */
static inline int team_next(Team *team) { return team->next++; }

static void *team_work(void *argument) {
    const Member *member = argument;
    Team *team = member->team;
    for (;;) {
        team_meet(team); /* the caller has brought a job, or the end */
        if (team->stopping) return NULL;
        team->job(member, team->argument);
        team_meet(team);
    }
}

/* Do a job on all threads; the caller is one of them. One caller at a time. */
static void team_run(Team *team, void (*job)(const Member *, void *), void *argument) {
    team->job = job;
    team->argument = argument;
    team_meet(team);
    job(&team->members[0], argument);
    team_meet(team);
}

/* Make a team, or give NULL. */
Team *loradock_team_new(int threads) {
    Team *team = calloc(1, sizeof(Team));
    if (!team) return NULL;
    team->members = calloc(threads, sizeof(Member));
    team->handles = calloc(threads, sizeof(pthread_t));
    if (!team->members || !team->handles) {
        free(team->members);
        free(team->handles);
        free(team);
        return NULL;
    }
    team->threads = threads;
    for (int i = 0; i < threads; i++) {
        team->members[i] = (Member){team, i};
        if (i && pthread_create(&team->handles[i], NULL, team_work, &team->members[i])) {
            team->threads = i; /* go on with fewer */
            break;
        }
    }
    return team;
}

int loradock_team_threads(const Team *team) { return team->threads; }

/* End a team's threads. Not while it runs. */
void loradock_team_free(Team *team) {
    team->stopping = 1;
    team_meet(team);
    for (int i = 1; i < team->threads; i++) pthread_join(team->handles[i], NULL);
    free(team->members);
    free(team->handles);
    free(team);
}
