/** Replaces `cli-progress` in the browser build. Without a terminal to redraw, `progressBar` writes lines. */
export default {};
