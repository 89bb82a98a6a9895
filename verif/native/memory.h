// The memory behind the core's AXI4 port: exact in time, or random within what AXI4 allows.
#pragma once
#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "random.h"
#include "wires.h"

struct Timing {
    std::int64_t latency = 20;          // cycles
    std::int64_t rate_bytes = BUS_BYTES;  // so many bytes in so many cycles, each 2^52 at most;
    std::int64_t rate_cycles = 1;         // a word takes a cycle at least, whatever the rate
    std::int64_t refresh_interval = 0;  // cycles; 0 is never
    std::int64_t refresh = 0;           // cycles
    std::int64_t host = 1;              // cycles from a sync's interrupt to the host's resume
};

// Bus addresses whose reads or writes are answered with an error.
struct Trap {
    std::uint64_t first, end;
    bool write;
    unsigned response;
};

// A point in time between two cycles: `part` of `whole` parts of a cycle after the start of `cycle`.
// Whole numbers only, and none grows with time but the cycle.
struct Moment {
    std::int64_t cycle = 0, part = 0;

    bool operator<(const Moment& other) const {
        return cycle != other.cycle ? cycle < other.cycle : part < other.part;
    }
    // The first cycle that does not start before it.
    std::int64_t next_cycle() const { return cycle + (part > 0); }
    Moment later(std::int64_t parts, std::int64_t whole) const {
        const std::int64_t sum = part + parts;
        return {cycle + sum / whole, sum % whole};
    }
};

class Memory {
  public:
    // The image lies at bus address `base`; everything outside answers DECERR.
    Memory(std::uint8_t* image, std::uint64_t base, std::uint64_t bytes)
        : image_(image), base_(base), bytes_(bytes) {}

    Timing timing;
    std::vector<Trap> traps;
    // From one cycle to another the memory accepts and answers nothing.
    std::int64_t silent_from = 0, silent_until = 0;

    void be_exact() { random_ = false; }

    void be_random(std::uint64_t seed) {
        random_ = true;
        dice_ = Random(seed);
        for (Pauses* pauses : {&pause_ar_, &pause_aw_, &pause_w_}) pauses->draw(dice_);
        slowness_ = dice_.below(100);
    }

    bool is_random() const { return random_; }
    Random& dice() { return dice_; }

    // Nothing is under way any more: a program starts, or the core has been reset.
    void restart() {
        free_ = Moment{};
        read_end_ = write_end_ = 0;
        beats_.clear();
        bursts_.clear();
        data_.clear();
        answers_.clear();
    }

    // What the memory offers in cycle `now`.
    void drive(std::int64_t now, Wires& wires) {
        const bool silent = now >= silent_from && now < silent_until;
        wires.ar.ready = !silent && !(random_ && pause_ar_.next(dice_));
        wires.aw.ready = !silent && !(random_ && pause_aw_.next(dice_));
        wires.w.ready = !silent && !(random_ && pause_w_.next(dice_));
        wires.r.valid = !silent && !beats_.empty() && beats_.front().cycle <= now;
        if (wires.r.valid) {
            const Beat& beat = beats_.front();
            wires.r.last = beat.last;
            wires.r.response = beat.response;
            fetch(beat.address, wires.r.data);
        } else if (random_) {
            // What is not valid must not matter.
            wires.r.last = dice_.percent(50);
            wires.r.response = dice_.below(4);
            for (std::uint8_t& byte : wires.r.data) byte = dice_.next();
        }
        wires.b.valid = !silent && !answers_.empty() && answers_.front().cycle <= now;
        wires.b.response = wires.b.valid    ? answers_.front().response
                           : random_        ? dice_.below(4)
                                            : unsigned(OKAY);
    }

    // Takes what moved in cycle `now`.
    void clock(std::int64_t now, const Wires& wires) {
        if (wires.r.moves() && !beats_.empty()) beats_.pop_front();
        if (wires.b.moves() && !answers_.empty()) {
            for (const auto& [address, word] : answers_.front().data) keep(address, word);
            answers_.pop_front();
        }
        if (wires.ar.moves()) read(now, wires.ar);
        if (wires.aw.moves()) bursts_.push_back(wires.aw);
        if (wires.w.moves() && !bursts_.empty()) {
            const std::uint64_t address = bursts_.front().address + BUS_BYTES * data_.size();
            data_.emplace_back(address, wires.w.data);
            if (data_.size() == bursts_.front().beats()) write(now);
        }
    }

  private:
    struct Beat {
        std::int64_t cycle;
        std::uint64_t address;
        unsigned response;
        bool last;
    };
    using Data = std::vector<std::pair<std::uint64_t, Word>>;
    struct Answer {
        std::int64_t cycle;
        unsigned response;
        Data data;  // seen by reads only once the answer has gone
    };

    void read(std::int64_t now, const AddressChannel& burst) {
        Moment start = begin(now + timing.latency, now, read_end_);
        for (unsigned i = 0; i < burst.beats(); ++i) {
            const std::uint64_t address = burst.address + BUS_BYTES * i;
            const bool last = i + 1 == burst.beats();
            beats_.push_back({step(start, read_end_), address, answer(address, false), last});
        }
        free_ = start;
    }

    void write(std::int64_t now) {
        Moment start = begin(now + 1, now, write_end_);
        std::int64_t cycle = 0;
        unsigned response = OKAY;
        for (const auto& each : data_) {
            cycle = step(start, write_end_);
            response = std::max(response, answer(each.first, true));
        }
        free_ = start;
        answers_.push_back({random_ ? cycle : cycle + timing.latency, response, std::move(data_)});
        data_.clear();
        bursts_.pop_front();
    }

    // When a burst's first beat may be served; where time is random, at the start of a cycle.
    Moment begin(std::int64_t earliest, std::int64_t now, std::int64_t end) {
        if (!random_) return std::max(Moment{earliest, 0}, free_);
        return {std::max(now + 1 + dice_.below(1 + slowness_), end), 0};
    }

    // The cycle of a beat served at `start`, which moves on to the next beat.
    std::int64_t step(Moment& start, std::int64_t& end) {
        std::int64_t cycle = start.next_cycle();
        if (random_) {
            if (dice_.percent(30)) cycle += dice_.below(12);
            end = cycle + 1;
            start = {end, 0};
            return cycle;
        }
        if (timing.refresh_interval) {
            const std::int64_t phase = cycle % timing.refresh_interval;
            if (phase < timing.refresh) {
                cycle += timing.refresh - phase;
                start = {cycle, 0};
            }
        }
        // A word takes BUS_BYTES * rate_cycles / rate_bytes cycles, but one at least.
        const std::int64_t parts = BUS_BYTES * timing.rate_cycles;
        start = start.later(parts, std::min(parts, timing.rate_bytes));
        return cycle;
    }

    unsigned answer(std::uint64_t address, bool write) const {
        for (const Trap& trap : traps)
            if (trap.write == write && address < trap.end && address + BUS_BYTES > trap.first)
                return trap.response;
        return inside(address) ? OKAY : DECERR;
    }

    bool inside(std::uint64_t address) const {
        return address >= base_ && address - base_ + BUS_BYTES <= bytes_;
    }

    void fetch(std::uint64_t address, Word& word) const {
        if (inside(address))
            std::memcpy(word.data(), image_ + (address - base_), BUS_BYTES);
        else
            word.fill(0xee);
    }

    void keep(std::uint64_t address, const Word& word) {
        if (inside(address)) std::memcpy(image_ + (address - base_), word.data(), BUS_BYTES);
    }

    std::uint8_t* image_;
    std::uint64_t base_, bytes_;
    bool random_ = false;
    Random dice_{0};
    Pauses pause_ar_, pause_aw_, pause_w_;
    std::int64_t slowness_ = 0;
    Moment free_;  // when the one server is free, where time is exact
    std::int64_t read_end_ = 0, write_end_ = 0;  // where time is random, in cycles
    std::deque<Beat> beats_;
    std::deque<AddressChannel> bursts_;  // written, their data still to come
    Data data_;                          // of the first of them
    std::deque<Answer> answers_;
};
