// What the core's wires carry in one clock cycle, as the memory, the monitor and the host see them.
#pragma once
#include <array>
#include <cstdint>

#include "config.h"  // BUS_BYTES, BURST_BEATS, OUTSTANDING_READS, written from the spec

using Word = std::array<std::uint8_t, BUS_BYTES>;

enum Response : unsigned { OKAY = 0, SLVERR = 2, DECERR = 3 };

struct AddressChannel {
    bool valid, ready;
    std::uint64_t address;
    unsigned length, size, burst, cache, protection;
    bool moves() const { return valid && ready; }
    unsigned beats() const { return length + 1; }
};

struct ReadChannel {
    bool valid, ready, last;
    unsigned response;
    Word data;
    bool moves() const { return valid && ready; }
};

struct WriteChannel {
    bool valid, ready, last;
    std::uint64_t strobes;
    Word data;
    bool moves() const { return valid && ready; }
};

struct ResponseChannel {
    bool valid, ready;
    unsigned response;
    bool moves() const { return valid && ready; }
};

// One AXI4-Lite channel; `value` is its address or its data.
struct LiteChannel {
    bool valid, ready;
    std::uint32_t value;
    unsigned response;
    bool moves() const { return valid && ready; }
};

struct Wires {
    bool reset, busy, interrupt;
    AddressChannel ar, aw;
    ReadChannel r;
    WriteChannel w;
    ResponseChannel b;
    LiteChannel lite_ar, lite_r, lite_aw, lite_w, lite_b;
};
