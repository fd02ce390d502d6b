// A team of GPU threads on the CPU: one after the other up to every barrier, in either order. If the order does not
// matter, no thread reads before a barrier what another one writes before it.
#pragma once

namespace freqrob::testing {

template <int Threads>
struct SerialTeam {
  static constexpr int kThreads = Threads;
  bool backwards;

  /// Each thread's registers.
  template <class T>
  struct Each {
    T of[Threads];
    T& operator[](int t) { return of[t]; }
    const T& operator[](int t) const { return of[t]; }
  };

  template <class Task>
  void each(Task task) {
    for (int t = 0; t < Threads; ++t) task(backwards ? Threads - 1 - t : t);
  }

  void add(int& to, int value) { to += value; }
};

}  // namespace freqrob::testing
