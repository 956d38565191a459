// A plan belongs to one call at a time: its scratch memory and its list of gradients are not locked
// while a kernel runs without the interpreter, nor while an argument's conversion runs Python code.
#pragma once
#include <stdexcept>

namespace unstuck {

class Busy {
 public:
  // To be made and left with the interpreter held.
  class Hold {
   public:
    explicit Hold(Busy& of) : busy_(of.busy_) {
      if (busy_)
        throw std::runtime_error(
            "this plan is in use by another thread, or by the call that led here: make one each");
      busy_ = true;
    }
    ~Hold() { busy_ = false; }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    bool& busy_;
  };

 private:
  bool busy_ = false;
};

}  // namespace unstuck
