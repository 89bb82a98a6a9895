// A clock for example.v, and its memory afterwards in after.hex:
//
//   iverilog -g2005 -o simulate simulate.v example.v evolute_core.v && ./simulate

`timescale 1ns / 1ps

module simulate;
  reg aclk = 0, aresetn = 0;
  wire done, failed;

  example example (.aclk(aclk), .aresetn(aresetn), .done(done), .failed(failed));

  always #5 aclk = !aclk;

  initial begin
    #100 aresetn = 1;
    wait (done);
    $display("%0s after %0d ns", failed ? "failed" : "done", $time);
    $writememh("after.hex", example.memory.words);
    $finish;
  end
endmodule
