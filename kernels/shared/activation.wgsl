// Element type of activations in memory. Arithmetic is always in f32: loads convert by f32(x[i]) or
// vec4<f32>(x_vec4[i]), stores by Activation(value) or Activation4(value).
alias Activation = f32;
alias Activation4 = vec4<f32>;
