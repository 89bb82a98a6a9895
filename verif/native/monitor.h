// Watches the wires for broken rules of AXI4, AXI4-Lite and the core; knows no memory and no host.
#pragma once
#include <deque>
#include <string>
#include <vector>

#include "wires.h"

class Monitor {
  public:
    static constexpr std::size_t SHOWN = 8;  // violations kept in words
    static constexpr std::uint64_t PAGE_BYTES = 4096;
    static constexpr unsigned NORMAL_BUFFERABLE = 3;  // of AxCACHE: non-cacheable, bufferable

    std::uint64_t violations = 0;
    std::vector<std::string> shown;

    void check(std::int64_t cycle, const Wires& wires) {
        cycle_ = cycle;
        if (wires.reset) {
            // Registers follow a cycle after the reset is first seen.
            if (before_.reset && (wires.ar.valid || wires.aw.valid || wires.w.valid))
                broken("valid during reset");
            forget();
        } else {
            check_held(wires);
            check_reads(wires);
            check_writes(wires);
            check_lite(wires);
            check_idle(wires);
        }
        before_ = wires;
    }

  private:
    void broken(const std::string& what) {
        ++violations;
        if (shown.size() < SHOWN) shown.push_back("cycle " + std::to_string(cycle_) + ": " + what);
    }

    void require(bool holds, const char* what) {
        if (!holds) broken(what);
    }

    void forget() {
        reads_.clear();
        writes_.clear();
        read_beats_ = write_beats_ = 0;
        unanswered_ = lite_reads_ = lite_writes_ = lite_write_data_ = 0;
    }

    // What is valid and not taken stays, with the same payload.
    void check_held(const Wires& now) {
        if (before_.reset) return;
        const auto same_address = [](const AddressChannel& a, const AddressChannel& b) {
            return a.address == b.address && a.length == b.length && a.size == b.size &&
                   a.burst == b.burst && a.cache == b.cache && a.protection == b.protection;
        };
        const auto same_lite = [](const LiteChannel& a, const LiteChannel& b) {
            return a.value == b.value && a.response == b.response;
        };
        const auto held = [&](const char* name, const auto& a, const auto& b, auto same) {
            if (!a.valid || a.ready) return;
            if (!b.valid)
                broken(std::string(name) + " valid dropped before ready");
            else if (!same(a, b))
                broken(std::string(name) + " payload changed before ready");
        };
        const Wires& was = before_;
        held("AR", was.ar, now.ar, same_address);
        held("AW", was.aw, now.aw, same_address);
        held("W", was.w, now.w, [](const WriteChannel& a, const WriteChannel& b) {
            return a.last == b.last && a.strobes == b.strobes && a.data == b.data;
        });
        held("R", was.r, now.r, [](const ReadChannel& a, const ReadChannel& b) {
            return a.last == b.last && a.response == b.response && a.data == b.data;
        });
        held("B", was.b, now.b, [](const ResponseChannel& a, const ResponseChannel& b) {
            return a.response == b.response;
        });
        held("lite R", was.lite_r, now.lite_r, same_lite);
        held("lite B", was.lite_b, now.lite_b, same_lite);
    }

    void check_address(const char* name, const AddressChannel& a) {
        const auto rule = [&](bool holds, const char* what) {
            if (!holds) broken(std::string(name) + " " + what);
        };
        const std::uint64_t bytes = std::uint64_t(a.beats()) * BUS_BYTES;
        rule(a.burst == 1, "burst is not INCR");
        rule((1u << a.size) == BUS_BYTES, "size is not the bus width");
        rule(a.cache == NORMAL_BUFFERABLE, "cache is not that of normal memory, bufferable");
        rule(a.protection == 0, "protection is not that of unprivileged secure data");
        rule(a.address % BUS_BYTES == 0, "address is not aligned");
        rule(a.beats() <= BURST_BEATS, "burst is too long");
        rule(a.address % PAGE_BYTES + bytes <= PAGE_BYTES, "burst crosses a 4 KiB boundary");
    }

    void check_reads(const Wires& now) {
        if (now.ar.valid) check_address("AR", now.ar);
        if (now.r.valid && reads_.empty()) {
            broken("R without AR");
        } else if (now.r.valid) {
            require(now.r.last == (read_beats_ + 1 == reads_.front()), "RLAST is misplaced");
            if (now.r.ready && ++read_beats_ == reads_.front()) {
                reads_.pop_front();
                read_beats_ = 0;
            }
        }
        if (now.ar.moves()) {
            reads_.push_back(now.ar.beats());
            require(reads_.size() <= OUTSTANDING_READS, "too many reads outstanding");
        }
    }

    void check_writes(const Wires& now) {
        if (now.aw.valid) check_address("AW", now.aw);
        require(!now.b.valid || unanswered_ > 0, "B without a complete write");
        if (now.b.moves()) --unanswered_;
        if (now.w.valid && writes_.empty()) {
            broken("W before its AW");
        } else if (now.w.valid) {
            require(now.w.last == (write_beats_ + 1 == writes_.front()),
                    "WLAST is misplaced");
            require(now.w.strobes == ~std::uint64_t(0) >> (64 - BUS_BYTES), "a strobe is missing");
            if (now.w.ready && ++write_beats_ == writes_.front()) {
                writes_.pop_front();
                write_beats_ = 0;
                ++unanswered_;
            }
        }
        if (now.aw.moves()) writes_.push_back(now.aw.beats());
    }

    void check_lite(const Wires& now) {
        const auto answer = [&](const char* name, const LiteChannel& channel, int waiting) {
            if (!channel.valid) return;
            if (waiting <= 0) broken(std::string(name) + " without a request");
            if (channel.response != OKAY && channel.response != SLVERR)
                broken(std::string(name) + " response is neither OKAY nor SLVERR");
        };
        answer("lite R", now.lite_r, lite_reads_);
        answer("lite B", now.lite_b, lite_writes_ < lite_write_data_ ? lite_writes_
                                                                      : lite_write_data_);
        lite_reads_ += now.lite_ar.moves() - now.lite_r.moves();
        lite_writes_ += now.lite_aw.moves() - now.lite_b.moves();
        lite_write_data_ += now.lite_w.moves() - now.lite_b.moves();
    }

    // A core that is not busy is silent and has left nothing behind.
    void check_idle(const Wires& now) {
        if (now.busy) return;
        require(!now.ar.valid && !now.aw.valid && !now.w.valid, "a request while not busy");
        if (before_.busy)
            require(reads_.empty() && writes_.empty() && !unanswered_,
                    "busy ended with transfers outstanding");
    }

    std::int64_t cycle_ = 0;
    Wires before_{};
    std::deque<unsigned> reads_, writes_;  // beats of bursts accepted in earlier cycles
    unsigned read_beats_ = 0, write_beats_ = 0;  // seen of the first
    int unanswered_ = 0, lite_reads_ = 0, lite_writes_ = 0, lite_write_data_ = 0;
};
