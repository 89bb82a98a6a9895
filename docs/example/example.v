// A core, a memory and a host, each as small as it can be: what to replace by your own.
//
// The memory is loaded from memory.hex, where the program lies at address 0; `image.py` makes it.
// `done` rises when the program has ended, and `failed` with it if that was a fault.

module example #(
  parameter BUS_BITS = 128,      // CoreSpec.bus_bits, here of core-fpga
  parameter ADDRESS_BITS = 32,   // CoreSpec.address_bits
  parameter MEMORY_BITS = 18,    // address bits of the memory: 256 KiB
  parameter INSTRUCTIONS = 6     // of the program, the halt included
) (
  input aclk,
  input aresetn,
  output done,
  output failed
);
  wire interrupt;

  wire [ADDRESS_BITS-1:0] araddr, awaddr;
  wire [7:0] arlen, awlen;
  wire arvalid, arready, rlast, rvalid, rready;
  wire awvalid, awready, wlast, wvalid, wready, bvalid, bready;
  wire [BUS_BITS-1:0] rdata, wdata;
  wire [BUS_BITS/8-1:0] wstrb;
  wire [1:0] rresp, bresp;

  wire [7:0] lite_awaddr, lite_araddr;
  wire [31:0] lite_wdata, lite_rdata;
  wire [1:0] lite_bresp, lite_rresp;
  wire lite_awvalid, lite_awready, lite_wvalid, lite_wready, lite_bvalid, lite_bready;
  wire lite_arvalid, lite_arready, lite_rvalid, lite_rready;

  evolute_core core (
    .aclk(aclk), .aresetn(aresetn), .interrupt(interrupt), .busy(),
    // Every burst is of whole words at increasing addresses, so size, burst, cache and prot say
    // nothing to a memory that can do no other.
    .m_axi_araddr(araddr), .m_axi_arlen(arlen), .m_axi_arsize(), .m_axi_arburst(),
    .m_axi_arcache(), .m_axi_arprot(), .m_axi_arvalid(arvalid), .m_axi_arready(arready),
    .m_axi_rdata(rdata), .m_axi_rresp(rresp), .m_axi_rlast(rlast),
    .m_axi_rvalid(rvalid), .m_axi_rready(rready),
    .m_axi_awaddr(awaddr), .m_axi_awlen(awlen), .m_axi_awsize(), .m_axi_awburst(),
    .m_axi_awcache(), .m_axi_awprot(), .m_axi_awvalid(awvalid), .m_axi_awready(awready),
    .m_axi_wdata(wdata), .m_axi_wstrb(wstrb), .m_axi_wlast(wlast),
    .m_axi_wvalid(wvalid), .m_axi_wready(wready),
    .m_axi_bresp(bresp), .m_axi_bvalid(bvalid), .m_axi_bready(bready),
    .s_axi_awaddr(lite_awaddr), .s_axi_awprot(3'b000),
    .s_axi_awvalid(lite_awvalid), .s_axi_awready(lite_awready),
    .s_axi_wdata(lite_wdata), .s_axi_wstrb(4'b1111),
    .s_axi_wvalid(lite_wvalid), .s_axi_wready(lite_wready),
    .s_axi_bresp(lite_bresp), .s_axi_bvalid(lite_bvalid), .s_axi_bready(lite_bready),
    .s_axi_araddr(lite_araddr), .s_axi_arprot(3'b000),
    .s_axi_arvalid(lite_arvalid), .s_axi_arready(lite_arready),
    .s_axi_rdata(lite_rdata), .s_axi_rresp(lite_rresp),
    .s_axi_rvalid(lite_rvalid), .s_axi_rready(lite_rready)
  );

  axi_memory #(
    .BUS_BITS(BUS_BITS), .ADDRESS_BITS(ADDRESS_BITS), .MEMORY_BITS(MEMORY_BITS)
  ) memory (
    .aclk(aclk), .aresetn(aresetn),
    .araddr(araddr), .arlen(arlen), .arvalid(arvalid), .arready(arready),
    .rdata(rdata), .rresp(rresp), .rlast(rlast), .rvalid(rvalid), .rready(rready),
    .awaddr(awaddr), .awlen(awlen), .awvalid(awvalid), .awready(awready),
    .wdata(wdata), .wstrb(wstrb), .wlast(wlast), .wvalid(wvalid), .wready(wready),
    .bresp(bresp), .bvalid(bvalid), .bready(bready)
  );

  host #(.INSTRUCTIONS(INSTRUCTIONS)) host (
    .aclk(aclk), .aresetn(aresetn), .interrupt(interrupt), .done(done), .failed(failed),
    .awaddr(lite_awaddr), .awvalid(lite_awvalid), .awready(lite_awready),
    .wdata(lite_wdata), .wvalid(lite_wvalid), .wready(lite_wready),
    .bresp(lite_bresp), .bvalid(lite_bvalid), .bready(lite_bready),
    .araddr(lite_araddr), .arvalid(lite_arvalid), .arready(lite_arready),
    .rdata(lite_rdata), .rresp(lite_rresp), .rvalid(lite_rvalid), .rready(lite_rready)
  );
endmodule


// The driver's steps of docs/isa.md, "How to run a program".
module host #(parameter INSTRUCTIONS = 1) (
  input aclk,
  input aresetn,
  input interrupt,
  output reg done,
  output reg failed,
  output reg [7:0] awaddr,
  output reg awvalid,
  input awready,
  output reg [31:0] wdata,
  output reg wvalid,
  input wready,
  input [1:0] bresp,
  input bvalid,
  output bready,
  output [7:0] araddr,
  output reg arvalid,
  input arready,
  input [31:0] rdata,
  input [1:0] rresp,
  input rvalid,
  output rready
);
  localparam CONTROL = 8'h08, STATUS = 8'h0c, INTERRUPT_ENABLE = 8'h10;
  localparam PROGRAM_LOW = 8'h14, PROGRAM_HIGH = 8'h18, COUNT = 8'h1c;
  localparam START = 1, DONE_OR_ERROR = 6;

  reg [2:0] step;
  assign bready = 1'b1;
  assign rready = 1'b1;
  assign araddr = STATUS;

  always @(posedge aclk)
    if (!aresetn) begin
      {step, done, failed, awvalid, wvalid, arvalid} <= 0;
    end else begin
      if (awready) awvalid <= 1'b0;
      if (wready) wvalid <= 1'b0;
      if (arready) arvalid <= 1'b0;
      if (bvalid && bresp != 2'b00) failed <= 1'b1;
      // One write at a time: the next once the one before is answered.
      if (step == 0 || (step < 5 && bvalid)) begin
        step <= step + 1'b1;
        awvalid <= 1'b1;
        wvalid <= 1'b1;
        case (step)
          0: {awaddr, wdata} <= {INTERRUPT_ENABLE, 32'd0 + DONE_OR_ERROR};
          1: {awaddr, wdata} <= {PROGRAM_LOW, 32'd0};
          2: {awaddr, wdata} <= {PROGRAM_HIGH, 32'd0};
          3: {awaddr, wdata} <= {COUNT, 32'd0 + INSTRUCTIONS};
          default: {awaddr, wdata} <= {CONTROL, 32'd0 + START};
        endcase
      end
      if (step == 5 && interrupt) begin
        step <= 6;
        arvalid <= 1'b1;
      end
      if (rvalid) begin
        done <= 1'b1;
        failed <= failed || rresp != 2'b00 || rdata[2];
      end
    end
endmodule


// An AXI4 memory that serves one burst of each kind at a time.
module axi_memory #(
  parameter BUS_BITS = 128,
  parameter ADDRESS_BITS = 32,
  parameter MEMORY_BITS = 18
) (
  input aclk,
  input aresetn,
  input [ADDRESS_BITS-1:0] araddr,
  input [7:0] arlen,
  input arvalid,
  output arready,
  output [BUS_BITS-1:0] rdata,
  output [1:0] rresp,
  output rlast,
  output reg rvalid,
  input rready,
  input [ADDRESS_BITS-1:0] awaddr,
  input [7:0] awlen,
  input awvalid,
  output awready,
  input [BUS_BITS-1:0] wdata,
  input [BUS_BITS/8-1:0] wstrb,
  input wlast,
  input wvalid,
  output wready,
  output [1:0] bresp,
  output reg bvalid,
  input bready
);
  localparam WORD_BITS = MEMORY_BITS - $clog2(BUS_BITS / 8);
  localparam LOW = $clog2(BUS_BITS / 8);

  reg [BUS_BITS-1:0] words [0:(1 << WORD_BITS)-1];
  initial $readmemh("memory.hex", words);

  // Addresses beyond the memory repeat it.
  reg [WORD_BITS-1:0] read_word, write_word;
  reg [7:0] read_left;
  reg writing;
  integer i;

  assign arready = !rvalid;
  assign rdata = words[read_word];
  assign rresp = 2'b00;
  assign rlast = read_left == 0;
  assign awready = !writing && !bvalid;
  assign wready = writing;
  assign bresp = 2'b00;

  always @(posedge aclk)
    if (!aresetn) begin
      {rvalid, writing, bvalid} <= 0;
    end else begin
      if (arvalid && arready) begin
        rvalid <= 1'b1;
        read_word <= araddr[LOW +: WORD_BITS];
        read_left <= arlen;
      end else if (rvalid && rready) begin
        rvalid <= !rlast;
        read_word <= read_word + 1'b1;
        read_left <= read_left - 1'b1;
      end
      if (awvalid && awready) begin
        writing <= 1'b1;
        write_word <= awaddr[LOW +: WORD_BITS];
      end else if (wvalid && wready) begin
        for (i = 0; i < BUS_BITS / 8; i = i + 1)
          if (wstrb[i]) words[write_word][8*i +: 8] <= wdata[8*i +: 8];
        write_word <= write_word + 1'b1;
        writing <= !wlast;
        bvalid <= wlast;
      end else if (bready) begin
        bvalid <= 1'b0;
      end
    end
endmodule
