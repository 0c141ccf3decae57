/** In place of `@node-rs/jieba`, which is native, in the browser build. */
throw new Error('a browser loads no native package');
