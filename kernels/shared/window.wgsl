// Where the taps of a pooling window read, by the fields height, width, out_height, out_width, kernel_height,
// kernel_width, stride_height, stride_width, pad_height and pad_width of params.

// Pixel of x that a tap of an output pixel's window reads, and 1 if it lies inside the image. Rows above and columns
// left of the image wrap round to huge numbers, and fail the same comparison as those below and right of it.
fn window_pixel(n: u32, oh: u32, ow: u32, kh: u32, kw: u32) -> vec2<u32> {
    let h = oh * params.stride_height + kh - params.pad_height;
    let w = ow * params.stride_width + kw - params.pad_width;
    let inside = h < params.height && w < params.width;
    return select(vec2(0u), vec2((n * params.height + h) * params.width + w, 1u), inside);
}

// Output pixel whose window reads pixel (h, w) of x by a tap, and 1 if there is one.
fn window_reader(n: u32, h: u32, w: u32, kh: u32, kw: u32) -> vec2<u32> {
    let bottom = h + params.pad_height;
    let right = w + params.pad_width;
    if bottom < kh || right < kw { return vec2(0u); }
    let oh = (bottom - kh) / params.stride_height;
    let ow = (right - kw) / params.stride_width;
    let divides = oh * params.stride_height == bottom - kh && ow * params.stride_width == right - kw;
    let inside = oh < params.out_height && ow < params.out_width && divides;
    return select(vec2(0u), vec2((n * params.out_height + oh) * params.out_width + ow, 1u), inside);
}
