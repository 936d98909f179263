// Work shared among threads, whoever owns them.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace kg {

// A parallel-for in C: runs body(context, task) for every task and returns when all are done.
using Body = void (*)(void *context, int64_t task);
using ParallelFor = void (*)(void *owner, int64_t tasks, Body body, void *context);

struct Pool {
  ParallelFor run;
  void *owner;
  int64_t threads;
};

// The library's own threads, which sleep between calls: `threads` of them, the caller included.
Pool own_pool(int64_t threads);

// Tasks that any thread may claim. The caller works too and waits only for tasks that somebody has begun,
// so a helper that comes late, or never (after a fork), holds nothing up.
struct Job {
  std::atomic<int64_t> next{0}, done{0};
  const int64_t tasks;
  const Body body;
  void *const context;

  Job(int64_t tasks, Body body, void *context) : tasks(tasks), body(body), context(context) {}

  void work() {
    for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) {
      body(context, task);
      done.fetch_add(1, std::memory_order_release);
    }
  }

  void wait() {
    for (int spins = 0; done.load(std::memory_order_acquire) < tasks; spins++) {
#if defined(__x86_64__) || defined(_M_X64)
      _mm_pause();
#endif
      if (spins > 1000) std::this_thread::yield(); // some 20 us: the helper has lost its core
    }
  }
};

// Calls f(begin, end) over [0, n), in pieces of at least `grain`: on the caller alone where there is one
// piece. Four pieces a thread let one that is late be helped.
template <typename F> void parallel(const Pool &pool, int64_t n, int64_t grain, F f) {
  const int64_t most = n / (grain > 0 ? grain : 1);
  const int64_t tasks = most < 4 * pool.threads ? most : 4 * pool.threads;
  if (pool.threads <= 1 || tasks <= 1 || !pool.run) {
    if (n > 0) f((int64_t)0, n);
    return;
  }
  struct Context {
    F &f;
    int64_t n, tasks;
  } context = {f, n, tasks};
  pool.run(
      pool.owner, tasks,
      [](void *p, int64_t task) {
        Context &c = *static_cast<Context *>(p);
        c.f(c.n * task / c.tasks, c.n * (task + 1) / c.tasks);
      },
      &context);
}

} // namespace kg
