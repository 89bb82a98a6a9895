// Seeded random numbers and stall patterns.
#pragma once
#include <cstdint>

class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    // splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
    std::uint64_t next() {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }

    // Uniform in 0..limit-1.
    std::int64_t below(std::int64_t limit) { return next() % std::uint64_t(limit); }

    bool percent(int chance) { return below(100) < chance; }

  private:
    std::uint64_t state_;
};

// Whether a channel pauses, cycle by cycle: never, in single cycles, or in runs.
class Pauses {
  public:
    void draw(Random& random) {
        pattern_ = random.below(3);
        chance_ = 10 + random.below(80);
        left_ = 0;
    }

    bool next(Random& random) {
        if (pattern_ == 0) return false;
        if (pattern_ == 1) return random.percent(chance_);
        if (left_-- == 0) {
            pausing_ = !pausing_;
            left_ = random.below(24);
        }
        return pausing_;
    }

  private:
    int pattern_ = 0, chance_ = 0;
    std::int64_t left_ = 0;
    bool pausing_ = false;
};
