// Threads of our own, for callers that bring none.
//
// They sleep between jobs. A pool that spins starves the threads of the framework beside it: a PyTorch
// step fell from 137 to 7 tokens a second.
#include "pool.h"
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <vector>

namespace kg {
namespace {

class Workers {
public:
  void run(int64_t threads, int64_t tasks, Body body, void *context) {
    auto job = std::make_shared<Job>(tasks, body, context);
    const int64_t helpers = (threads < tasks ? threads : tasks) - 1;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      try {
        while ((int64_t)threads_.size() < helpers) threads_.emplace_back([this] { loop(); });
      } catch (const std::system_error &) { // no more to be had: those there are, and the caller, do it
      }
      for (int64_t i = 0; i < helpers; i++) calls_.push_back(job);
    }
    for (int64_t i = 0; i < helpers; i++) wake_.notify_one();
    job->work();
    job->wait();
  }

private:
  void loop() {
    for (;;) {
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return !calls_.empty(); });
        job = std::move(calls_.back());
        calls_.pop_back();
      }
      job->work();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
  std::vector<std::shared_ptr<Job>> calls_;
};

} // namespace

Pool own_pool(int64_t threads) {
  // Never destroyed: its threads may still sleep on it while the process ends.
  static Workers *const workers = new Workers;
  return {[](void *threads, int64_t tasks, Body body, void *context) {
            workers->run((int64_t)reinterpret_cast<intptr_t>(threads), tasks, body, context);
          },
          reinterpret_cast<void *>((intptr_t)threads), threads};
}

} // namespace kg
