/** Replaces the native package `@node-rs/jieba` in the browser build. */
throw new Error('a browser loads no native package');
