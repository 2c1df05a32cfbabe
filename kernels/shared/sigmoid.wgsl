// 1 / (1 + exp(-x)) by an exponential of at most 1: exp(-x) is infinite below -88, and fast maths, which Metal has by
// default, knows no infinity. Numbers below -1000 give 0, like those below -104. A NaN may become any number, so a
// caller multiplies by x, which stays NaN.

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    let e = exp(-min(abs(x), vec4(1000.0)));
    return select(vec4(1.0), e, x < vec4(0.0)) / (1.0 + e);
}
